"""A docker that keeps a record of what it was asked, and does to mounted folders what NVIDIA's container would.

FAKE_LOG: a file for the record, one JSON list a line. FAKE_FACTS: a file with what the probe finds. FAKE_FAIL: a program that fails.
"""

# ruff: noqa: T201, PTH208 - it is a program, and prints what a folder holds.

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

IMAGE = "nvcr.io/nvidia/tritonserver:"


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    with Path(os.environ["FAKE_LOG"]).open("a") as log:
        log.write(json.dumps(["docker", *arguments]) + "\n")
    if arguments[0] == "run":
        return run(arguments)
    if arguments[0] == "stop":
        os.kill(int(pid_file(arguments[-1]).read_text()), signal.SIGTERM)
    if arguments[:2] == ["image", "inspect"]:
        print("nvcr.io/nvidia/tritonserver@sha256:" + "5" * 64)
    return 0


def pid_file(name: str) -> Path:
    return Path(os.environ["FAKE_LOG"]).with_name(f"{name}.pid")


def run(arguments: list[str]) -> int:
    place = next(index for index, word in enumerate(arguments) if word.startswith(IMAGE))
    volumes = [word.split(":") for option, word in itertools.pairwise(arguments[:place]) if option == "--volume"]
    folders = {target: Path(host) for host, target, *_ in volumes}
    command = arguments[place + 1 :]
    print(f"== A greeting of {arguments[place]} ==", flush=True)
    program = next((word for word in command if word != "python3"), "").rpartition("/")[2]
    if program == os.environ.get("FAKE_FAIL"):
        print("no such luck")
        return 3
    acts: dict[str, Callable[[], object]] = {
        "probe.py": lambda: print(Path(os.environ["FAKE_FACTS"]).read_text()),
        "quantize.py": lambda: (folders["/made/checkpoint"] / "rank0.safetensors").write_text(str(os.listdir(folders["/calibration"]))),
        "convert_checkpoint.py": lambda: (folders["/made/checkpoint"] / "rank0.safetensors").write_text("weights"),
        "trtllm-build": lambda: (folders["/made/engine"] / "rank0.engine").write_text(str(os.listdir(folders["/made/checkpoint"]))),
        "tritonserver": lambda: serve(arguments, folders),
        "nvidia-smi": lambda: print("NVIDIA L4"),
    }
    acts[program]()
    return 0


def serve(arguments: list[str], folders: dict[str, Path]) -> None:
    """Be ready, if the mounts have a repository and an engine, until a signal comes."""
    import grpc  # noqa: PLC0415 - only this act needs them

    from keyahead.proto.inference import triton_pb2, triton_pb2_grpc  # noqa: PLC0415

    assert (folders["/engine"] / "rank0.engine").is_file()
    assert (folders["/repository"] / "tensorrt_llm" / "config.pbtxt").is_file()

    class Triton(triton_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelReady(self, request: triton_pb2.ModelReadyRequest, context: object) -> triton_pb2.ModelReadyResponse:
            return triton_pb2.ModelReadyResponse(ready=True)

        def ServerReady(self, request: triton_pb2.ServerReadyRequest, context: object) -> triton_pb2.ServerReadyResponse:
            return triton_pb2.ServerReadyResponse(ready=True)

        def ModelStreamInfer(self, requests: Any, context: object) -> Any:
            raise NotImplementedError

    published = next(word for word in arguments if word.endswith(":8001"))
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    triton_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Triton(), server)
    server.add_insecure_port(published.removesuffix(":8001"))
    pid_file(arguments[arguments.index("--name") + 1]).write_text(str(os.getpid()))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
