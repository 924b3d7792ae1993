"""`keyahead complete`: one suggestion at one place in a file, asked for by hand."""

from __future__ import annotations

import enum
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from keyahead.cli.client import DEFAULT_ADDRESS, AddressOption, Client
from keyahead.cli.output import CommandError, JsonOption, Output, UsageError
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb

MAX_CHARS = 100_000
"""Characters sent from each side of the cursor."""
GHOST = "dim italic"
"""How suggested text looks."""
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | dict.fromkeys(range(0x7F, 0xA0), 0x2421)
"""Unicode's Control Pictures block; DEL's picture also stands for the C1 controls, which have none."""


class ModeChoice(enum.StrEnum):
    """How much to complete."""

    AUTO = "auto"
    SINGLE_LINE = "single-line"
    BLOCK = "block"


MODES = {ModeChoice.AUTO: pb.MODE_AUTO, ModeChoice.SINGLE_LINE: pb.MODE_SINGLE_LINE, ModeChoice.BLOCK: pb.MODE_BLOCK}
ModeOption = Annotated[
    ModeChoice, typer.Option("--mode", help="How much to complete; auto: a block where one was opened or the line is empty, else lines.")
]


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor in a text."""

    text: str
    offset: int
    """Characters before the cursor."""

    @property
    def prefix(self) -> str:
        """The text before the cursor."""
        return self.text[: self.offset]

    @property
    def suffix(self) -> str:
        """The text after the cursor."""
        return self.text[self.offset :]


def complete(
    where: Annotated[str, typer.Argument(metavar="FILE:LINE:COL", help="Line and column of the cursor, in characters from 1.")],
    address: AddressOption = DEFAULT_ADDRESS,
    mode: ModeOption = ModeChoice.AUTO,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds to wait for the best answer.")] = 30.0,
    max_tokens: Annotated[int, typer.Option(min=0, max=256, help="Most tokens to decode; 0 leaves it to the service.")] = 0,
    context: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Another file worth knowing; may be repeated.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show the suggestion while it is decoded.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Complete one place in a file: shows its line with the suggestion as ghost text."""
    path, line, column = parse_place(where)
    place = locate(read_text(path), str(path), line, column)
    request = pb.CompleteRequest(
        # Of a huge file only what a prompt could hold many times over, so that the server's limit is no limit here.
        document=pb.Document(path=str(path), split=pb.SplitText(prefix=place.prefix[-MAX_CHARS:], suffix=place.suffix[:MAX_CHARS])),
        context=[pb.ContextFile(path=str(each), text=read_text(each)) for each in context or []],
        mode=MODES[mode],
        trigger=pb.TRIGGER_MANUAL,
        request_id=f"cli-{secrets.token_hex(8)}",
        max_tokens=max_tokens,
    )
    output = Output(as_json)
    with Client(address) as client:
        answer = _streamed(client, request, timeout, place, output.console) if stream else client.complete(request, timeout)
    output.console.print(with_ghost(place, answer.text), soft_wrap=True)
    output.console.print(summary(answer), style="dim")
    output.emit(to_json(answer))


def parse_place(where: str) -> tuple[Path, int, int]:
    """The parts of FILE:LINE:COL; FILE may itself contain colons."""
    file, _, position = where.rpartition(":")
    file, _, line = file.rpartition(":")
    if not (file and line.isascii() and line.isdigit() and position.isascii() and position.isdigit()):
        raise UsageError(f"'{where}' does not name a place: give FILE:LINE:COL, such as app.py:12:5.")
    return Path(file), int(line), int(position)


def read_text(path: Path) -> str:
    """A file's text with its line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}): convert it first, for example with iconv.") from None
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}: check the name.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): name a readable file.") from None


def locate(text: str, name: str, line: int, column: int) -> Place:
    """The cursor at a line and column, both from 1; a column may stand just behind the line's last character."""
    lines = text.split("\n")
    if not 1 <= line <= len(lines):
        raise UsageError(f"{name} has no line {line}: give a line from 1 to {len(lines)}.")
    this = lines[line - 1]
    last = len(this if line == len(lines) else this.removesuffix("\r")) + 1
    if not 1 <= column <= last:
        raise UsageError(f"Line {line} of {name} has no column {column}: give a column from 1 to {last}.")
    return Place(text, sum(len(each) + 1 for each in lines[: line - 1]) + column - 1)


def with_ghost(place: Place, ghost: str) -> Text:
    """The cursor's line with the suggestion in it."""
    before = place.prefix.rpartition("\n")[2]
    after = place.suffix.partition("\n")[0].removesuffix("\r")
    return Text.assemble(printable(before), (printable(ghost), GHOST), printable(after))


def printable(text: str) -> str:
    """The text with control characters as pictures of them, so that neither a file nor a model can drive the terminal."""
    return text.translate(_PICTURES)


def summary(answer: pb.CompleteResponse) -> str:
    """Source, time by stage, size and ending in a few words."""
    what = f"{answer.tokens.completion} tokens" if answer.text else "nothing to suggest"
    stages = ((field.name.replace("_", " "), ms) for field, ms in answer.timings_ms.ListFields() if field.name != "total")
    spent = ", ".join(f"{name} {ms:.1f}" for name, ms in stages)
    time = f"{answer.timings_ms.total:.0f} ms" + (f" ({spent})" if spent else "")
    return f"{_word(pb.Source, answer.source)} · {time} · {what} · {_word(pb.FinishReason, answer.finish_reason)}"


def to_json(answer: pb.CompleteResponse) -> dict[str, Any]:
    """The answer as `--json` prints it: enum values are lower-case words, timings are milliseconds."""
    return {
        "text": answer.text,
        "finish_reason": _word(pb.FinishReason, answer.finish_reason),
        "source": _word(pb.Source, answer.source),
        "timings_ms": {field.name: round(getattr(answer.timings_ms, field.name), 3) for field in pb.StageTimings.DESCRIPTOR.fields},
        "tokens": {"prompt": answer.tokens.prompt, "completion": answer.tokens.completion},
        "model": {"name": answer.model.name, "version": answer.model.version},
        "request_id": answer.request_id,
    }


def _word(kind: Any, value: int) -> str:
    """`SOURCE_IN_FLIGHT` as `in_flight`; a value newer than this client as its number."""
    known = kind.DESCRIPTOR.values_by_number.get(value)
    if known is None:
        return str(value)
    common = kind.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(known.name.removeprefix(common).lower())


def _streamed(client: Client, request: pb.CompleteRequest, timeout_s: float, place: Place, console: Console) -> pb.CompleteResponse:
    """Shows the ghost text grow, takes it away again, and returns the final answer."""
    ghost = ""
    with Live(with_ghost(place, ghost), console=console, transient=True, refresh_per_second=30) as live:
        for event in client.stream(request, timeout_s):
            if event.HasField("done"):
                return event.done
            ghost += event.delta
            live.update(with_ghost(place, ghost))
    raise CommandError("The service ended the stream without an answer: look at its log.")
