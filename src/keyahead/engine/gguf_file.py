"""Reading a GGUF file's header, and rewriting the file with F16 weights.

The format is described in ggml's docs/gguf.md. The `gguf` package does the dequantizing; its reader is not used, as it takes 14 s
for a header with a vocabulary of 152k tokens, where one pass over the bytes takes 0.3 s.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keyahead.engine.store import SetupError

_MAGIC = b"GGUF"
_VERSION = 3
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_F32, _F16 = 0, 1
_MOSTLY_F16 = 1  # llama.cpp's LLAMA_FTYPE_MOSTLY_F16, the value of general.file_type
_DEFAULT_ALIGNMENT = 32
_SLAB_ELEMENTS = 1 << 22  # dequantized at a time: 16 MB in F32, so that memory stays small however large a tensor is

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: ggml's type number, and where it begins, counted from the start of the data."""

    name: str
    shape: tuple[int, ...]
    """Innermost dimension first, as ggml writes it."""
    type: int
    offset: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says before its data begins; positions are bytes from the start of the file."""

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    metadata_span: tuple[int, int]
    file_type_at: int
    """Position of the value of general.file_type."""
    data_at: int

    @property
    def alignment(self) -> int:
        """What tensor offsets are multiples of."""
        return int(self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT))

    @property
    def parameters(self) -> int:
        """Numbers in all tensors together."""
        return sum(tensor.elements for tensor in self.tensors)


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def scalar(self, kind: str) -> Any:
        (value,) = struct.unpack_from(kind, self.data, self.at)
        self.at += struct.calcsize(kind)
        return value

    def string(self) -> str:
        length = self.scalar("<Q")
        text = self.data[self.at : self.at + length]
        if len(text) < length:
            raise struct.error("the file ends inside a string")
        self.at += length
        return text.decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, length = self.scalar("<I"), self.scalar("<Q")
            return [self.value(inner) for _ in range(length)]
        return self.scalar(_SCALARS[kind])

    def tensor(self) -> Tensor:
        name = self.string()
        shape = tuple(self.scalar("<Q") for _ in range(self.scalar("<I")))
        return Tensor(name, shape, self.scalar("<I"), self.scalar("<Q"))


def read_header(path: Path) -> Header:
    """Read metadata and tensor list; SetupError if it is no whole GGUF file of version 3."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(_Reader(data))
    except (struct.error, KeyError, UnicodeDecodeError, ValueError) as error:
        raise SetupError(f"{path} is not a whole GGUF file of version {_VERSION} ({error}): fetch it again.") from error


def _header(reader: _Reader) -> Header:
    if reader.data[:4] != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    reader.at = 4
    if (version := reader.scalar("<I")) != _VERSION:
        raise ValueError(f"its version is {version}")
    tensor_count, pair_count = reader.scalar("<Q"), reader.scalar("<Q")
    start, file_type_at = reader.at, 0
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key, kind = reader.string(), reader.scalar("<I")
        if key == "general.file_type":
            file_type_at = reader.at
        metadata[key] = reader.value(kind)
    end = reader.at
    tensors = tuple(reader.tensor() for _ in range(tensor_count))
    header = Header(metadata, tensors, (start, end), file_type_at, 0)
    return Header(metadata, tensors, (start, end), file_type_at, _aligned(reader.at, header.alignment))


def write_f16(source: Path, target: Path, advance: Callable[[int], None]) -> None:
    """Write the same model with every quantized tensor as F16; `advance` is told of the bytes written."""
    header = read_header(source)
    data = np.memmap(source, np.uint8, "r")
    with target.open("wb") as out:
        advance(out.write(_f16_header(header, data)))
        for tensor in header.tensors:
            for slab in _slabs(header, tensor, data):
                advance(out.write(slab.tobytes()))
            advance(out.write(bytes(-out.tell() % header.alignment)))


def _f16_header(header: Header, data: Bytes) -> bytes:
    start, end = header.metadata_span
    metadata = bytearray(data[start:end].tobytes())
    if header.file_type_at:
        struct.pack_into("<I", metadata, header.file_type_at - start, _MOSTLY_F16)
    head = bytearray(struct.pack("<4sIQQ", _MAGIC, _VERSION, len(header.tensors), len(header.metadata)) + metadata)
    offset = 0
    for tensor in header.tensors:
        name = tensor.name.encode()
        head += struct.pack(f"<Q{len(name)}sI", len(name), name, len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, _F32 if tensor.type == _F32 else _F16, offset)
        offset = _aligned(offset + tensor.elements * (4 if tensor.type == _F32 else 2), header.alignment)
    return bytes(head) + bytes(-len(head) % header.alignment)


def _slabs(header: Header, tensor: Tensor, data: Bytes) -> Iterator[npt.NDArray[Any]]:
    """A tensor's rows, some at a time: F32 as they are, all others as F16."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants  # noqa: PLC0415 - half a second that reading a header need not pay

    kind = GGMLQuantizationType(tensor.type)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    row_bytes = tensor.shape[0] // block * block_bytes
    rows = tensor.elements // tensor.shape[0]
    start = header.data_at + tensor.offset
    raw = data[start : start + rows * row_bytes].reshape(rows, row_bytes)
    step = max(1, _SLAB_ELEMENTS // tensor.shape[0])
    for first in range(0, rows, step):
        part = raw[first : first + step]
        yield part if tensor.type == _F32 else quants.dequantize(part, kind).astype(np.float16)


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
