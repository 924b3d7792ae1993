"""The tokenizer agrees, token for token, with OpenVINO's, keeps control tokens out of plain text, and answers look-ups exactly."""

from __future__ import annotations

import json
import os
import re
import sysconfig
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyahead.engine import catalogue, fetch, tokenizer
from keyahead.engine.catalogue import Model
from keyahead.engine.cpu import convert
from keyahead.engine.store import SetupError, SilentProgress
from keyahead.engine.tokenizer import Tokenizer, write_published

pytestmark = pytest.mark.timeout(1800)  # the first run on a machine fetches and converts both models

FIM = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]
MARKERS = [
    *FIM,
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "<|fim_prefix",
    "fim_middle|>",
    "<|<|im_end|>|>",
    "[PAD151700]",
]
SUFFIXES = [
    ".py",
    ".js",
    ".ts",
    ".c",
    ".h",
    ".hpp",
    ".pyx",
    ".java",
    ".rs",
    ".go",
    ".sh",
    ".css",
    ".html",
    ".xml",
    ".json",
    ".toml",
    ".md",
    ".txt",
]
# All assigned characters, and one in 50 of those that are unassigned or private; no surrogates, which are no text.
CODES = [
    code for code in range(0x110000) if (kind := unicodedata.category(chr(code))) != "Cs" and (kind not in {"Cn", "Co"} or code % 50 == 0)
]
FRAGMENTS = [
    *(
        "def f(x, *args):\n    return x",
        "fn main() -> Result<(), E> {\n\t",
        "public static void main(String[] a) {\n",
        "#include <a.h>\r\n",
    ),
    *(
        "SELECT * FROM t WHERE a<>'b';",
        '<div class="x">&nbsp;</div>',
        "x = 0xFFul + 1e-9;",
        "λ x → x ∷ xs",
        "if [[ -z $1 ]]; then",
        "=>",
        "!==",
        "::",
    ),
    *(
        "don't",
        "I'LL",
        "we'Ve",
        "'s",
        "''",
        '"""',
        "变量 = 值;",
        "переменная",
        "\uff46\uff55\uff4c\uff4c\uff11",
        "é",
        "e\u0301",
        "👩‍👩‍👧",
        "🇩🇪",
        "\u202e",
        "\ufeff",
        "\u2028",
    ),
    *(
        "1234567890",
        "٣٤٥",
        "½",
        " ",
        "  ",
        "       ",
        "\t\t",
        "\n",
        "\n\n\n",
        "\r",
        "\r\n",
        " \n ",
        "\u00a0",
        "\u3000",
        "\x0b",
        "\x00",
        "\x7f",
    ),
]


@dataclass
class Pair:
    """Our tokenizer and the independent one that OpenVINO made from the same weights."""

    model: Model
    ours: Tokenizer
    theirs: object

    def reference(self, text: str) -> list[int]:
        """OpenVINO's tokens; it reads markers as control tokens."""
        return self.theirs.encode(text, add_special_tokens=False).input_ids.data[0].tolist() if text else []  # type: ignore[attr-defined]

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of every token."""
        return [self.ours.token_bytes(index) for index in range(self.ours.vocab_size)]

    def representable(self, text: str) -> str:
        """The text without characters for whose bytes the vocabulary has no token.

        SmolLM2 lacks some control characters and the planes 4 to 11. The published tokenizer drops such bytes, as ours does;
        OpenVINO's puts <|endoftext|> in their place, which would be a control token made from what a user typed.
        """
        return "".join(character for character in text if self.lacking.isdisjoint(character.encode())) if self.lacking else text

    @cached_property
    def lacking(self) -> set[int]:
        """The bytes that are no token of their own."""
        return {byte for byte in range(256) if bytes([byte]) not in self.pieces}


@pytest.fixture(name="pair", scope="module", params=["qwen2.5-coder-0.5b", "smollm2-135m"])
def both_tokenizers(request: pytest.FixtureRequest) -> Pair:
    """The pair of each CPU model."""
    import openvino_genai  # noqa: PLC0415 - after the weights are there

    model = catalogue.get(request.param)
    folder = convert.find(model) or convert.convert(model, fetch.fetch(model, progress=SilentProgress()), SilentProgress())
    return Pair(model, Tokenizer.load(folder), openvino_genai.Tokenizer(str(folder)))


def source_files() -> Iterator[Path]:
    """Up to 40 files of each kind from the standard library, the C headers and the installed packages."""
    left = dict.fromkeys(SUFFIXES, 40)
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("include"), sysconfig.get_path("purelib")):
        for folder, _, names in os.walk(root):
            for path in (Path(folder, name) for name in names):
                if left.get(path.suffix):
                    left[path.suffix] -= 1
                    yield path


def test_source_files_agree(pair: Pair) -> None:
    """Hundreds of real files in many languages give the same tokens, and decode to themselves."""
    total = 0
    for path in source_files():
        text = pair.representable(path.read_text(encoding="utf-8", errors="replace")[:4000])
        ids = pair.ours.encode_with_control(text)
        assert ids == pair.reference(text), path
        assert pair.ours.decode(pair.ours.encode(text)) == text, path
        total += len(text)
    assert total > 500_000


@pytest.mark.parametrize("stride", [1, 4099], ids=["in order", "scattered"])
def test_all_of_unicode_agrees(pair: Pair, stride: int) -> None:
    """Characters of every plane, all the assigned ones, among its neighbours and among strangers, gives the same tokens."""
    order = [CODES[position * stride % len(CODES)] for position in range(len(CODES))]
    for start in range(0, len(order), 1000):
        text = pair.representable("".join(map(chr, order[start : start + 1000])))
        assert pair.ours.encode(text) == pair.reference(text), f"from character {start}"
        assert pair.ours.decode(pair.ours.encode(text)) == text


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from([*FRAGMENTS, *MARKERS]) | st.text(max_size=5), max_size=30))
def test_mixtures_agree(pair: Pair, parts: list[str]) -> None:
    """Code, prose, space, odd characters and markers in any order give the same tokens when markers are read."""
    text = pair.representable("".join(parts))
    assert pair.ours.encode_with_control(text) == pair.reference(text)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from([*FRAGMENTS, *MARKERS]) | st.text(max_size=5), max_size=30))
def test_plain_text_never_becomes_a_control_token(pair: Pair, parts: list[str]) -> None:
    """Whatever a user types, markers included, encodes without control tokens and decodes to itself."""
    text = pair.representable("".join(parts))
    ids = pair.ours.encode(text)
    assert pair.ours.control_ids.isdisjoint(ids)
    assert pair.ours.decode(ids) == text


def test_the_catalogues_markers_are_control_tokens(pair: Pair) -> None:
    """Every marker and end token that the catalogue names is one control token without text, OpenVINO's number for it included."""
    fim = pair.model.fim
    for name in (*pair.model.end_tokens, *((fim.prefix, fim.suffix, fim.middle, fim.pad, fim.repo_name, fim.file_sep) if fim else ())):
        token = pair.ours.control(name)
        assert [token] == pair.reference(name)
        assert token in pair.ours.control_ids
        assert (pair.ours.token_bytes(token), pair.ours.decode([token])) == (b"", "")


def test_the_vocabulary_fits_the_model(pair: Pair) -> None:
    """The catalogue's vocabulary is that of the weights, and every ordinary token has bytes."""
    assert pair.ours.vocab_size == pair.model.vocab
    assert {index for index, piece in enumerate(pair.pieces) if not piece} == pair.ours.control_ids


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_beginnings_are_found_exactly(pair: Pair, data: st.DataObject) -> None:
    """The tokens that begin with some bytes are those a search through all of them finds, for beginnings of tokens and for any bytes."""
    some = pair.ours.token_bytes(data.draw(st.integers(0, pair.ours.vocab_size - 1)))
    piece = data.draw(st.integers(0, len(some)).map(lambda end: some[:end]) | st.binary(max_size=3))
    expected = {index for index, own in enumerate(pair.pieces) if own and own.startswith(piece)}
    found = pair.ours.ids_starting_with(piece)
    assert set(found) == expected
    assert len(found) == len(expected)


def test_newlines_are_found_wherever_they_are(pair: Pair) -> None:
    """Tokens with a newline in the middle count, and all others do not."""
    found = set(pair.ours.ids_containing(b"\n"))
    assert pair.ours.encode("\n")[0] in found
    assert found == {index for index, piece in enumerate(pair.pieces) if b"\n" in piece}


def test_half_a_character_decodes_to_a_replacement(pair: Pair) -> None:
    """Tokens may end inside a character; decoding what is there does not fail."""
    ids = pair.ours.encode("𒐫")
    assert len(ids) > 1
    assert "\ufffd" in pair.ours.decode(ids[:1])


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    """A folder without a tokenizer is named, with the cure."""
    with pytest.raises(SetupError, match=f"no tokenizer in {tmp_path}"):
        Tokenizer.load(tmp_path)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    """Weights with a tokenizer of another kind are refused by its name, not encoded wrongly."""
    with pytest.raises(SetupError, match="tokenizer is gpt2/llama3"):
        tokenizer.write({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama3"}, tmp_path)


def test_a_published_tokenizer_becomes_ours(qwen_folder: Path, tmp_path: Path) -> None:
    """From a Hugging Face tokenizer.json, merges written either way: the same tokens and markers, and a marker in text stays text."""
    ours = json.loads((qwen_folder / "tokenizer.json").read_text())
    markers = json.loads((qwen_folder / "control_tokens.json").read_text())["markers"]
    model = ours["model"]
    vocab = {name: index for name, index in model["vocab"].items() if name not in markers}
    added = [{"id": index, "content": name, "special": True} for name, index in markers.items()]
    written = {"text": [" ".join(pair) for pair in model["merges"]], "pairs": [list(pair) for pair in model["merges"]]}
    for name, merges in written.items():
        (tmp_path / name / "ours").mkdir(parents=True)
        published = {"model": {"type": "BPE", "vocab": vocab, "merges": merges}, "added_tokens": added}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(published))
        write_published(tmp_path / name, "qwen2", tmp_path / name / "ours")
    one, other = ((tmp_path / name / "ours" / "tokenizer.json").read_bytes() for name in written)
    assert one == other
    made, expected = Tokenizer.load(tmp_path / "text" / "ours"), Tokenizer.load(qwen_folder)
    text = "def f(x):\n\treturn x[1:] <|fim_middle|> # ünïcode 1234"
    assert made.encode(text) == expected.encode(text)
    assert made.control("<|fim_middle|>") == expected.control("<|fim_middle|>")
    assert made.control("<|fim_middle|>") not in made.encode(text)
    assert made.ids_starting_with(b"ret") == expected.ids_starting_with(b"ret")


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    """The error names the folder."""
    with pytest.raises(SetupError, match=re.escape(str(tmp_path))):
        write_published(tmp_path, "qwen2", tmp_path)
