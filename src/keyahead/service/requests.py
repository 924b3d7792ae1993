"""The wire's messages and the service's nouns: a request is validated whole, an answer is put into words.

Every limit of the proto is checked here; all violations are reported at once, by field path, without quoting what was sent.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from keyahead.engine.contract import Array
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.service.errors import InvalidRequest, Violation
from keyahead.service.model import Answer, ContextFile, FinishReason, Mode, Query, Source, Trigger
from keyahead.service.positions import BadPosition, Encoding, characters, line_ends, line_text_end, no_such_line, utf8_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TOKENS: Final = 256
MAX_PATH_BYTES: Final = 1024
MAX_LANGUAGE_BYTES: Final = 64

ID: Final = re.compile(r"[A-Za-z0-9._:-]{0,128}")
"""The names that clients give to sessions and requests."""
ID_RULE: Final = "must be at most 128 characters of [A-Za-z0-9._:-]"
ENUM_RULE: Final = "is not a value this server knows; leave it unset for the default"
"""A newer client may know more of them."""

_LANGUAGE = re.compile(r"[A-Za-z0-9+#._-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

MODES: Final = {
    pb.MODE_UNSPECIFIED: Mode.AUTO,
    pb.MODE_AUTO: Mode.AUTO,
    pb.MODE_SINGLE_LINE: Mode.SINGLE_LINE,
    pb.MODE_BLOCK: Mode.BLOCK,
}
TRIGGERS: Final = {
    pb.TRIGGER_UNSPECIFIED: Trigger.AUTOMATIC,
    pb.TRIGGER_AUTOMATIC: Trigger.AUTOMATIC,
    pb.TRIGGER_MANUAL: Trigger.MANUAL,
}
ENCODINGS: Final = {
    pb.POSITION_ENCODING_UNSPECIFIED: Encoding.UTF16,
    pb.POSITION_ENCODING_UTF16: Encoding.UTF16,
    pb.POSITION_ENCODING_UTF8: Encoding.UTF8,
    pb.POSITION_ENCODING_UTF32: Encoding.UTF32,
}
_FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.DEADLINE: pb.FINISH_REASON_DEADLINE,
    FinishReason.PARTIAL: pb.FINISH_REASON_PARTIAL,
    FinishReason.WITHHELD: pb.FINISH_REASON_WITHHELD,
}
_SOURCES = {
    Source.ENGINE: pb.SOURCE_ENGINE,
    Source.IN_FLIGHT: pb.SOURCE_IN_FLIGHT,
    Source.MEMORY: pb.SOURCE_MEMORY,
    Source.REDIS: pb.SOURCE_REDIS,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes a request may have."""

    document_bytes: int = 1 << 20
    """UTF-8 bytes of the document, before and after the cursor together."""
    context_bytes: int = 64 << 10
    """UTF-8 bytes of all context files together."""
    context_files: int = 16


def to_query(request: pb.CompleteRequest, tenant: str, limits: Limits, root: str = "") -> Query:
    """The query a request asks for; `root` is the field path of the request in its message, such as `request.`.

    Raises InvalidRequest with every violation.
    """
    violations = list(_check(request, limits))
    text = ("", "")
    try:
        text = _cut_document(request.document, limits)
    except _Refused as refused:
        violations.append(Violation(f"document.{refused.field}".rstrip("."), refused.description))
    if violations:
        raise InvalidRequest([Violation(root + each.field, each.description) for each in violations])
    return Query(
        prefix=text[0],
        suffix=text[1],
        path=request.document.path,
        language=request.document.language,
        context=tuple([ContextFile(each.path, each.text) for each in context]) if (context := request.context) else (),
        mode=MODES[request.mode],
        trigger=TRIGGERS[request.trigger],
        tenant=tenant,
        session_id=request.session_id,
        request_id=request.request_id or os.urandom(8).hex(),
        max_tokens=request.max_tokens,
    )


def to_response(answer: Answer, request_id: str, model: pb.ModelInfo) -> pb.CompleteResponse:
    """The message that carries an answer."""
    spent = answer.timings
    response = pb.CompleteResponse(
        request_id=request_id,
        text=answer.text,
        finish_reason=_FINISH_REASONS[answer.finish_reason],
        source=_SOURCES[answer.source],
        model=model,
        p_accept=answer.p_accept,
    )
    # In place: a message given to the other's constructor would be copied.
    tokens, timings = response.tokens, response.timings_ms
    tokens.prompt, tokens.completion = answer.prompt_tokens, answer.completion_tokens
    timings.admit, timings.cache, timings.prompt = spent.admit, spent.cache, spent.prompt
    timings.first_token, timings.decode, timings.trim, timings.total = spent.first_token, spent.decode, spent.trim, spent.total
    return response


class _Refused(Exception):
    """The document's text cannot be cut at the cursor: the field of the document and why."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = field
        self.description = description


def _check(request: pb.CompleteRequest, limits: Limits) -> Iterator[Violation]:
    """Everything but the document's text and cursor."""
    if not ID.fullmatch(request.session_id):
        yield Violation("session_id", ID_RULE)
    if not ID.fullmatch(request.request_id):
        yield Violation("request_id", ID_RULE)
    if request.mode not in MODES:
        yield Violation("mode", ENUM_RULE)
    if request.trigger not in TRIGGERS:
        yield Violation("trigger", ENUM_RULE)
    if request.max_tokens > MAX_TOKENS:
        yield Violation("max_tokens", f"must be at most {MAX_TOKENS}; 0 means the server's default")
    yield from _check_path("document.path", request.document.path)
    language = request.document.language
    if len(language) > MAX_LANGUAGE_BYTES or not _LANGUAGE.fullmatch(language):
        yield Violation("document.language", f"must be an LSP language id: at most {MAX_LANGUAGE_BYTES} characters of [A-Za-z0-9+#._-]")
    if request.context:
        yield from _check_context(request, limits)


def _check_context(request: pb.CompleteRequest, limits: Limits) -> Iterator[Violation]:
    if len(request.context) > limits.context_files:
        yield Violation("context", f"has {len(request.context)} files; send at most {limits.context_files}, the most useful ones")
        return
    left = limits.context_bytes
    for index, file in enumerate(request.context):
        yield from _check_path(f"context[{index}].path", file.path)
        text = file.text
        if "\0" in text:
            yield Violation(f"context[{index}].text", "contains a NUL character; send text files only")
        left -= utf8_bytes(text)
    if left < 0:
        yield Violation(
            "context", f"is {-left} bytes over the limit of {limits.context_bytes} bytes for all files; send fewer or shorter ones"
        )


def _check_path(field: str, path: str) -> Iterator[Violation]:
    if utf8_bytes(path) > MAX_PATH_BYTES:
        yield Violation(field, f"must be at most {MAX_PATH_BYTES} bytes; it is a hint only, so it may be shortened")
    if _CONTROL.search(path):
        yield Violation(field, "must not contain control characters")


def _cut_document(document: pb.Document, limits: Limits) -> tuple[str, str]:
    """Text before and after the cursor."""
    form = document.WhichOneof("text")
    if form is None:
        raise _Refused("", "is required: set document.split (prefix and suffix) or document.whole (text and cursor)")
    # Each access of a field of protobuf makes a new string, up to 1 MiB here: once only.
    texts = [document.split.prefix, document.split.suffix] if form == "split" else [document.whole.text]
    over = sum(map(utf8_bytes, texts)) - limits.document_bytes
    if over > 0:
        raise _Refused(form, f"is {over} bytes over the limit of {limits.document_bytes} bytes of text; send the part around the cursor")
    if any("\0" in text for text in texts):
        raise _Refused(form, "contains a NUL character; only text files can be completed")
    return (texts[0], texts[1]) if form == "split" else _cut_whole(texts[0], document.whole)


def _cut_whole(text: str, cursor: pb.CursorText) -> tuple[str, str]:
    if cursor.encoding not in ENCODINGS:
        raise _Refused("whole.encoding", "is not a known PositionEncoding; leave it unset for UTF-16, as in LSP")
    try:
        start, end = _line_span(text, cursor.line)
        at = start + characters(text[start:end], cursor.character, ENCODINGS[cursor.encoding])
    except BadPosition as bad:
        raise _Refused(f"whole.{bad.part}", bad.description) from None
    return text[:at], text[at:]


def _line_span(text: str, line: int) -> tuple[int, int]:
    """Where a zero-based line begins and ends (without its line end) in the text."""
    ends = line_ends(text)
    last = int(np.count_nonzero(ends))
    if line > last:
        raise no_such_line(last)
    start = 0 if line == 0 else _nth(ends, line) + 1
    end = len(text) if line == last else start + int(np.argmax(ends[start:]))
    return start, line_text_end(text, start, end)


def _nth(marks: Array, count: int) -> int:
    """Index of the `count`-th mark, by halving: counting is much faster than listing."""
    low, high = 0, len(marks)
    while high - low > 1:
        middle = (low + high) // 2
        found = int(np.count_nonzero(marks[low:middle]))
        if found >= count:
            high = middle
        else:
            count -= found
            low = middle
    return low
