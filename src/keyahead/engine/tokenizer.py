"""Text to tokens and back, exactly as the model's weights say; what a user typed never becomes a control token."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from keyahead.engine.store import SetupError

_NORMAL, _UNUSED = 1, 5  # ggml's LLAMA_TOKEN_TYPE_*; all other types (control, user defined) are markers to us
_FILE = "tokenizer.json"
_CONTROL_FILE = "control_tokens.json"
_QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ByteLevel = pre_tokenizers.ByteLevel
# How text is cut into words before byte-pair encoding, by `tokenizer.ggml.pre`: as in the tokenizer.json that Qwen2.5-Coder and
# SmolLM2 are published with. Qwen's also composes Unicode (NFC); we do not, as no weights say so and decoding must give the text back.
_PRE_TOKENIZERS = {
    "qwen2": lambda: [pre_tokenizers.Split(Regex(_QWEN2_SPLIT), "isolated"), _ByteLevel(add_prefix_space=False, use_regex=False)],
    "smollm": lambda: [pre_tokenizers.Digits(individual_digits=True), _ByteLevel(add_prefix_space=False, use_regex=True)],
}


def write(metadata: dict[str, Any], folder: Path) -> None:
    """Write the tokenizer that a GGUF file's metadata describe; SetupError if they describe a kind we do not know."""
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise SetupError(f"The weights' tokenizer is {kind}/{pre}, which keyahead cannot build: use a model of the catalogue.")
    names: list[str] = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    types: list[int] = metadata["tokenizer.ggml.token_type"]
    markers = {name: index for index, (name, type_) in enumerate(zip(names, types, strict=True)) if type_ not in {_NORMAL, _UNUSED}}
    unused = [index for index, type_ in enumerate(types) if type_ == _UNUSED]
    _save(folder, pre, {name: index for index, name in enumerate(names)}, merges, markers, unused)


def write_published(source: Path, pre: str, folder: Path) -> None:
    """Write the tokenizer of a Hugging Face checkpoint, whose own would read markers out of a user's text.

    Args:
        source: the checkpoint, with its tokenizer.json.
        pre: how text is cut into words, by the name that GGUF files have for it.
        folder: where to write.

    Raises SetupError if it is of a kind that we do not know.

    """
    try:
        published = json.loads((source / _FILE).read_bytes())
        vocab, merges = published["model"]["vocab"], published["model"]["merges"]
        markers = {token["content"]: token["id"] for token in published["added_tokens"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(f"{source} has no tokenizer.json that can be read: pass the whole checkpoint.") from error
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]  # both ways are in use
    _save(folder, pre, {**vocab, **markers}, pairs, markers, [])


def _save(folder: Path, pre: str, vocab: dict[str, int], merges: list[Any], markers: dict[str, int], unused: list[int]) -> None:
    built = tokenizers.Tokenizer(models.BPE(vocab, merges))
    built.pre_tokenizer = pre_tokenizers.Sequence(_PRE_TOKENIZERS[pre]())
    built.decoder = decoders.ByteLevel()
    built.save(str(folder / _FILE), pretty=False)
    (folder / _CONTROL_FILE).write_text(json.dumps({"markers": markers, "unused": unused}), encoding="utf-8")


def _byte_of_character() -> dict[int, int]:
    """GPT-2's table, which writes each byte as a printable character: printable ones as themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {0x100 + index: byte for index, byte in enumerate(others)}


class Tokenizer:
    """Encodes plain text. Control tokens are known by name only and have no text."""

    def __init__(self, plain: tokenizers.Tokenizer, markers: dict[str, int], unused: list[int]) -> None:
        self._plain = plain
        self._markers = markers
        self.control_ids = frozenset([*markers.values(), *unused])
        """Tokens that are not text: markers, ends, and those the vocabulary has only to be of a round size."""
        self.vocab_size = plain.get_vocab_size()
        """Number of tokens; the model's output may be padded beyond."""
        table = _byte_of_character()
        pieces = [b""] * self.vocab_size
        for name, index in plain.get_vocab().items():
            if index not in self.control_ids:
                pieces[index] = name.translate(table).encode("latin-1")
        self._bytes = pieces
        self._by_bytes = sorted((index for index, piece in enumerate(pieces) if piece), key=pieces.__getitem__)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Load the tokenizer of a converted model; SetupError if it is not there."""
        try:
            control = json.loads((folder / _CONTROL_FILE).read_bytes())
            return cls(tokenizers.Tokenizer.from_file(str(folder / _FILE)), control["markers"], control["unused"])
        except FileNotFoundError as error:
            raise SetupError(f"There is no tokenizer in {folder}: remove the folder to have it made again.") from error

    def encode(self, text: str) -> list[int]:
        """The tokens of plain text: a marker such as <|fim_prefix|> in it is text like any other."""
        return self._plain.encode(text, add_special_tokens=False).ids

    def encode_with_control(self, text: str) -> list[int]:
        """The tokens of text in which the names of control tokens stand for them. Never for what a user typed."""
        ids: list[int] = []
        for part in self._marker_names.split(text):
            ids += [self._markers[part]] if part in self._markers else self.encode(part)
        return ids

    @cached_property
    def _marker_names(self) -> re.Pattern[str]:
        longest_first = sorted(self._markers, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the tokens, without control tokens; bytes that are no UTF-8, such as half a character, become U+FFFD."""
        return b"".join(self._bytes[index] for index in ids).decode("utf-8", "replace")

    def token_bytes(self, index: int) -> bytes:
        """The bytes a token stands for; none for a control token."""
        return self._bytes[index]

    def control(self, name: str) -> int:
        """The control token of that name; KeyError if the model has none."""
        return self._markers[name]

    def ids_starting_with(self, piece: bytes) -> list[int]:
        """All tokens whose bytes begin with `piece`, control tokens excepted, in the order of their bytes."""

        def beginning(index: int) -> bytes:
            return self._bytes[index][: len(piece)]

        first = bisect_left(self._by_bytes, piece, key=beginning)
        return self._by_bytes[first : bisect_right(self._by_bytes, piece, lo=first, key=beginning)]

    def ids_containing(self, piece: bytes) -> list[int]:
        """All tokens whose bytes contain `piece`, control tokens excepted."""
        return [index for index, own in enumerate(self._bytes) if own and piece in own]
