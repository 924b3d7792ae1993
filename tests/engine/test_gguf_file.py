"""GGUF files are read and rewritten as the format's own library would."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyahead.engine.gguf_file import read_header, write_f16
from keyahead.engine.store import SetupError

TYPES = [
    GGMLQuantizationType.F32,
    GGMLQuantizationType.F16,
    GGMLQuantizationType.Q4_1,
    GGMLQuantizationType.Q5_0,
    GGMLQuantizationType.Q8_0,
]


def write_sample(path: Path) -> Path:
    """A file with every kind of metadata we meet and a tensor of each type, of uneven sizes."""
    writer = GGUFWriter(path, "llama")
    writer.add_file_type(3)
    writer.add_array("tokenizer.ggml.tokens", ["a", "Ġé", "<|end|>"])
    writer.add_array("tokenizer.ggml.token_type", [1, 1, 3])
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    random = np.random.default_rng(1)
    for number, kind in enumerate(TYPES, 1):
        values = random.standard_normal((number, 32 * number), np.float32)
        writer.add_tensor(f"tensor.{kind.name}", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(name="sample", scope="module")
def sample_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, written once."""
    return write_sample(tmp_path_factory.mktemp("gguf") / "sample.gguf")


def test_the_header_is_read_as_the_library_reads_it(sample: Path) -> None:
    """Metadata, names, shapes, types and positions of all tensors are the library's."""
    header, reader = read_header(sample), GGUFReader(sample)
    assert header.metadata == {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert [(tensor.name, tensor.shape, tensor.type, header.data_at + tensor.offset) for tensor in header.tensors] == [
        (tensor.name, tuple(tensor.shape), tensor.tensor_type, tensor.data_offset) for tensor in reader.tensors
    ]
    assert header.parameters == sum(32 * number * number for number in range(1, len(TYPES) + 1))


def test_f16_holds_the_same_model(sample: Path, tmp_path: Path) -> None:
    """The library reads the rewritten file, finds each tensor dequantized, the metadata as they were, and every byte was counted."""
    counts: list[int] = []
    write_f16(sample, tmp_path / "f16.gguf", counts.append)
    before, after = GGUFReader(sample), GGUFReader(tmp_path / "f16.gguf")
    for old, new in zip(before.tensors, after.tensors, strict=True):
        expected = gguf.quants.dequantize(old.data, old.tensor_type)
        kept = old.tensor_type is GGMLQuantizationType.F32
        np.testing.assert_array_equal(new.data, expected.astype(np.float32 if kept else np.float16))
    changed = {key for key, field in before.fields.items() if field.contents() != after.fields[key].contents()}
    assert changed == {"general.file_type"}
    assert after.fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_F16
    assert sum(counts) == (tmp_path / "f16.gguf").stat().st_size


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 10_000))
def test_half_a_header_is_refused(sample: Path, tmp_path: Path, cut: int) -> None:
    """Wherever the file is cut inside its header, the error names the file and what is wrong."""
    end = read_header(sample).data_at - 32
    path = tmp_path / "half.gguf"
    path.write_bytes(sample.read_bytes()[: cut % end])
    with pytest.raises(SetupError, match=r"half\.gguf is not a whole GGUF file"):
        read_header(path)


@pytest.mark.parametrize("change", [b"GGML\x03\0\0\0", b"GGUF\x02\0\0\0"], ids=["another format", "an older version"])
def test_another_format_is_refused(sample: Path, tmp_path: Path, change: bytes) -> None:
    """A file of another format or version is refused, not misread."""
    path = tmp_path / "other.gguf"
    path.write_bytes(change + sample.read_bytes()[8:])
    with pytest.raises(SetupError, match="is not a whole GGUF file of version 3"):
        read_header(path)
