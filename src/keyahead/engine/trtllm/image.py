"""The container that engines are built and served in, and how a command is run in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keyahead.engine.store import SetupError

REPOSITORY = "nvcr.io/nvidia/tritonserver"
TAG = "26.07-trtllm-python-py3"
"""The last line whose TensorRT-LLM still builds and serves engines (docs/adr/0011)."""
TRTLLM_VERSION = "1.2.1"
TENSORRT_VERSION = "10.14.1.48"
DRIVER_VERSION = "590.44.01"
"""The driver that this release is made for; data-centre GPUs may run it on an older one, by CUDA's forward compatibility."""

_OFFLINE = {
    # A calibration set or tokenizer that is missing must fail, not be fetched.
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # The user of the host has no entry in the container's /etc/passwd.
    "HOME": "/tmp",  # noqa: S108  # the container's own, gone with it
    "USER": "keyahead",
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Image:
    """A container image."""

    tag: str = TAG
    digest: str = ""
    """sha256:…, so that the tag cannot come to mean another image; empty if the operator gave none."""

    def __post_init__(self) -> None:
        if self.digest and not _DIGEST.fullmatch(self.digest):
            raise SetupError(
                f"{self.digest!r} is no image digest: give sha256: and 64 hexadecimal digits, as docker images --digests shows."
            )

    @property
    def release(self) -> str:
        """Triton's, with which the tag begins; 26.04 to 26.07 have the same TensorRT-LLM (Triton's docs/introduction/compatibility.md)."""
        return self.tag.partition("-")[0]

    @property
    def reference(self) -> str:
        """As docker names it."""
        return f"{REPOSITORY}:{self.tag}" + (f"@{self.digest}" if self.digest else "")

    def run(
        self, command: Sequence[str], mounts: Mapping[Path, str], *, device: str = "0", options: Sequence[str] = ("--rm",)
    ) -> list[str]:
        """The docker command that runs a command on one GPU as the present user.

        Args:
            command: program and arguments.
            mounts: folders of the host, and where the container sees them; `:ro` may follow.
            device: which GPU.
            options: further options of `docker run`.

        """
        docker = [
            "docker",
            "run",
            *options,
            "--gpus",
            f"device={device}",
            "--ipc=host",
            "--ulimit",
            "memlock=-1",
            "--ulimit",
            "stack=67108864",
        ]
        # trtllm-build leaves its timing cache where it is started.
        docker += ["--user", f"{os.getuid()}:{os.getgid()}", "--workdir", "/tmp"]  # noqa: S108  # the container's own
        for name, value in _OFFLINE.items():
            docker += ["--env", f"{name}={value}"]
        for folder, target in mounts.items():
            docker += ["--volume", f"{folder}:{target}"]
        return [*docker, self.reference, *command]
