"""A plain client of an engine's endpoint: sends tensors, collects what comes."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import numpy as np

from keyahead.engine.contract import (
    DTYPES,
    INPUTS,
    MODEL_NAME,
    OUTPUTS,
    PERF_OUTPUTS,
    Array,
    EngineRequest,
    Perf,
    decode_response,
    encode_request,
)
from keyahead.proto.inference import triton_pb2, triton_pb2_grpc

TIMEOUT_S = 60.0
_DATATYPES = {np.dtype(kind): name for name, kind in DTYPES.items()}
_BASIC = ("output_ids", "sequence_length")


@dataclass
class Answer:
    """All that came for one request."""

    deltas: list[tuple[int, ...]] = field(default_factory=list)
    log_probs: tuple[float, ...] | None = None
    perf: Perf | None = None
    error: str = ""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of all responses."""
        return tuple(itertools.chain.from_iterable(self.deltas))


class Stream:
    """One ModelStreamInfer call, for one request id."""

    def __init__(self, stub: triton_pb2_grpc.GRPCInferenceServiceStub, request_id: str) -> None:
        self._id = request_id
        self._outgoing: queue.Queue[triton_pb2.ModelInferRequest | None] = queue.Queue()
        self._call = stub.ModelStreamInfer(iter(self._outgoing.get, None), timeout=TIMEOUT_S)
        self.answer = Answer()
        self.first = threading.Event()

    def send(self, tensors: dict[str, Array], *, datatypes: dict[str, str] | None = None) -> None:
        """One message; `datatypes` replaces what a tensor is said to be."""
        message = triton_pb2.ModelInferRequest(model_name=MODEL_NAME, id=self._id)
        message.parameters["triton_enable_empty_final_response"].bool_param = True
        for name, array in tensors.items():
            message.inputs.add(name=name, datatype=(datatypes or {}).get(name, _DATATYPES[array.dtype]), shape=array.shape)
            message.raw_input_contents.append(array.tobytes())
        perf = [tensor.name for tensor in PERF_OUTPUTS] if "return_perf_metrics" in tensors else []
        log_probs = ["output_log_probs"] if "return_log_probs" in tensors else []
        for name in (*_BASIC, *log_probs, *perf):
            message.outputs.add(name=name)
        self._outgoing.put(message)

    def responses(self) -> Iterator[triton_pb2.ModelInferResponse]:
        """Each with tokens, until the final one or an error; the answer has grown by it already."""
        for response in self._call:
            inner = response.infer_response
            if response.error_message:
                self.answer.error = response.error_message
                return
            if inner.outputs:
                self._collect(inner)
                yield inner
            if inner.parameters["triton_final_response"].bool_param:
                return

    def finish(self) -> Answer:
        """Read to the end and hang up."""
        for _ in self.responses():
            pass
        self._outgoing.put(None)
        return self.answer

    def hang_up(self) -> None:
        """Cancel the call, as a client does that is gone."""
        self._call.cancel()

    def _collect(self, inner: triton_pb2.ModelInferResponse) -> None:
        kinds = {tensor.name: DTYPES[tensor.datatype] for tensor in OUTPUTS}
        arrays = {
            output.name: np.frombuffer(raw, kinds[output.name]).reshape(tuple(output.shape))
            for output, raw in zip(inner.outputs, inner.raw_output_contents, strict=True)
        }
        response = decode_response(arrays)
        self.answer.deltas.append(response.output_ids)
        self.answer.log_probs = response.log_probs
        self.answer.perf = response.perf or self.answer.perf


class Endpoint:
    """An engine behind Triton."""

    def __init__(self, address: str, vocab_size: int) -> None:
        self.address = address
        self.vocab_size = vocab_size
        self._channel = grpc.insecure_channel(address)
        self._stub = triton_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._ids = itertools.count(1)

    def close(self) -> None:
        self._channel.close()

    def open(self) -> Stream:
        """A call with a request id of its own."""
        return Stream(self._stub, f"contract-{next(self._ids)}")

    def start(self, prompt: tuple[int, ...], **fields: object) -> Stream:
        """A request on its way."""
        stream = self.open()
        stream.send(encode_request(EngineRequest(input_ids=prompt, **fields)))  # type: ignore[arg-type]
        return stream

    def ask(self, prompt: tuple[int, ...], **fields: object) -> Answer:
        """A request and its whole answer, which must not be an error."""
        answer = self.start(prompt, **fields).finish()
        assert not answer.error, answer.error
        return answer


def good_tensors(prompt: tuple[int, ...]) -> dict[str, Array]:
    """A request that any engine serves."""
    return encode_request(EngineRequest(input_ids=prompt, max_new_tokens=2))


def declared_type(name: str) -> str:
    """Of an input, in the contract."""
    return next(tensor.datatype for tensor in INPUTS if tensor.name == name)
