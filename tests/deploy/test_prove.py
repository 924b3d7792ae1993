"""deploy/gpu/prove.sh, in full, on a host where every command keeps a record of what it was asked and does nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keyahead.engine.store import SilentProgress
from keyahead.stack import debs

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "gpu" / "prove.sh"
DIGEST = "sha256:" + "5" * 64
IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"

FAKE = """#!{python}
import json, os, pathlib, sys, time
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
PULLED, SERVES = (pathlib.Path(sys.argv[0]).with_name(each) for each in ("pulled", "serves"))
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(json.dumps([name, *words]) + "\\n")
step = " ".join([name, *words[:2]])
if os.environ.get("FAKE_FAIL") and step.startswith(os.environ["FAKE_FAIL"]):
    sys.exit(3)
if name == "nvidia-smi":
    print(os.environ.get("FAKE_USED_MB", "3") if "memory.used" in words[0] else os.environ["FAKE_GPU"])
elif step == "docker image inspect":
    # Of the mirror it was pulled from, too, and of nothing before it was pulled.
    if PULLED.exists():
        print("mirror.example.org/tritonserver@sha256:0\\nnvcr.io/nvidia/tritonserver@{digest}\\n")
    sys.exit(not PULLED.exists())
elif step.startswith("docker pull"):
    PULLED.touch()
elif step.startswith("docker info"):
    print(os.environ.get("FAKE_DOCKER_ROOT", "/"))
elif name == "df":
    print("Filesystem 1024-blocks Used Available Capacity Mounted on")
    print("/dev/sda 1 1", int(int(os.environ.get("FAKE_FREE_GB", "100")) * 1e9 / 1024), "50% /")
elif name == "docker" and "libcuda" in words[-1]:
    sys.exit("FAKE_NO_CUDA" in os.environ)
elif name == "git":
    (pathlib.Path(words[-1]) / ".git").mkdir(parents=True)
elif name == "hf":
    folder = pathlib.Path(words[-1])
    (folder / ".cache").mkdir(parents=True)
    (folder / "config.json").write_text("{{}}")
elif name == "curl":
    print("nv_gpu_utilization 0.5" if "8802" in words[-1] else "keyahead_engine_up", int(SERVES.exists()))
elif step.startswith("keyahead engine serve") or step.startswith("keyahead serve"):
    try:  # Ready is who can be stopped.
        if "engine" in step:
            print("Triton serves it. Ctrl-C stops it.")
            print(json.dumps({{"address": "127.0.0.1:8801", "tokenizer": "/some/engine/tokenizer", "max_drafts": 24}}), flush=True)
        else:
            with open(os.environ["FAKE_LOG"], "a") as log:
                log.write(json.dumps(["told", "KEYAHEAD_MAX_DRAFTS=" + os.environ["KEYAHEAD_MAX_DRAFTS"]]) + "\\n")
            SERVES.touch()
        time.sleep(60)
    except KeyboardInterrupt:
        SERVES.unlink(missing_ok=True)
        with open(os.environ["FAKE_LOG"], "a") as log:
            log.write(json.dumps(["stopped", step]) + "\\n")
"""
INSPECT = f"docker image inspect --format {{{{range .RepoDigests}}}}{{{{println .}}}}{{{{end}}}} {IMAGE}"
PORTS = 'python3 -c import socket, sys; socket.create_server(("127.0.0.1", int(sys.argv[1]))).close()'
EXPECTED = [
    "docker version",
    "nvidia-smi --query-gpu=name --format=csv,noheader",
    "nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits",
    *(f"{PORTS} {port}" for port in (8801, 8802, 50551, 9464)),
    "git clone --depth 1 --branch main https://example.org/keyahead.git WORK/source.part",
    "make -C WORK/source venv",
    "keyahead engine plan PLANNED",
    INSPECT,
    "docker info --format {{.DockerRootDir}}",
    "df -Pk /",
    f"docker pull {IMAGE}",
    INSPECT,
    f"docker run --rm --gpus device=0 {IMAGE}@{DIGEST} nvidia-smi",
    f'docker run --rm --gpus device=0 {IMAGE}@{DIGEST} python3 -c import ctypes, sys; sys.exit(ctypes.CDLL("libcuda.so.1").cuInit(0) != 0)',
    "df -Pk WORK",
    "hf download Qwen/Qwen2.5-Coder-1.5B --revision abc123 --local-dir WORK/qwen2.5-coder-1.5b-abc123",
    "keyahead engine plan OPTIONS --json",
    "keyahead engine build OPTIONS --checkpoint WORK/qwen2.5-coder-1.5b-abc123",
    "keyahead engine preflight OPTIONS --port 8801",
    "keyahead engine serve OPTIONS --port 8801 --json",
    "curl --silent --show-error --fail --max-time 5 http://127.0.0.1:8802/metrics",
    "keyahead serve",
    "told KEYAHEAD_MAX_DRAFTS=24",
    "curl --silent --show-error --fail --max-time 5 http://127.0.0.1:9464/metrics",
    (
        "keyahead loadtest --address 127.0.0.1:50551 --typists 16 --duration 180 --engine-metrics http://127.0.0.1:8802/metrics "
        "--output WORK/loadtest.json --junit WORK/loadtest.xml"
    ),
    "stopped keyahead serve",
    "stopped keyahead engine serve",
]
PLANNED = "--model qwen2.5-coder-1.5b --gpu l4 --precision fp8 --runtime tensorrt --work WORK/engines"
OPTIONS = f"{PLANNED} --image-digest {DIGEST}"


class Host:
    """A bare host: nothing on PATH but the usual tools and the fakes, and a copy of the script alone."""

    def __init__(self, folder: Path) -> None:
        self.work, self._log, bin_ = folder / "work", folder / "log", folder / "bin"
        bin_.mkdir()
        for name in ("docker", "nvidia-smi", "git", "curl", "make", "python3", "df", "hf", "keyahead"):
            (bin_ / name).write_text(FAKE.format(python=sys.executable, digest=DIGEST))
            (bin_ / name).chmod(0o755)
        self.bin, self.script = bin_, folder / "prove.sh"
        shutil.copy(SCRIPT, self.script)

    def prove(self, **settings: str) -> subprocess.CompletedProcess[str]:
        """One run."""
        self._log.write_text("")
        environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": os.environ["HOME"],
            "FAKE_LOG": str(self._log),
            "FAKE_GPU": "NVIDIA L4",
            "WORK": str(self.work),
            "REPOSITORY": "https://example.org/keyahead.git",
            "REVISION": "abc123",
            **settings,
        }
        return subprocess.run([self.script], env=environment, capture_output=True, text=True, timeout=60, check=False)

    @property
    def asked(self) -> list[str]:
        """Every command, with names for what differs from run to run, and an answer's repetitions left out."""
        lines = [" ".join(json.loads(line)).replace(str(self.work), "WORK") for line in self._log.read_text().splitlines()]
        shortened = [line.replace(OPTIONS, "OPTIONS").replace(PLANNED, "PLANNED") for line in lines]
        return [line for index, line in enumerate(shortened) if index == 0 or line != shortened[index - 1]]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A bare GPU host."""
    return Host(tmp_path)


def test_from_nothing_to_a_report(host: Host) -> None:
    """Every command in order, word for word; what was started is stopped, the last first."""
    run = host.prove()
    assert run.returncode == 0, run.stderr
    asked = [line for line in host.asked if not line.startswith("curl")]
    assert asked == [line for line in EXPECTED if not line.startswith("curl")]
    assert {line for line in host.asked if line.startswith("curl")} == {line for line in EXPECTED if line.startswith("curl")}
    assert not (host.work / "qwen2.5-coder-1.5b-abc123" / ".cache").exists()


def test_a_second_run_repeats_nothing_that_is_there(host: Host) -> None:
    """Neither clone, pull nor download, so that no network is needed; building and the rest look for themselves."""
    host.prove()
    assert host.prove(FAKE_FREE_GB="0").returncode == 0
    assert [line for line in host.asked if line.startswith(("git", "docker pull", "hf"))] == []


def test_another_revision_is_another_checkpoint(host: Host) -> None:
    """What was downloaded before does not pass for it."""
    host.prove()
    assert host.prove(REVISION="def456").returncode == 0
    assert [line.split()[-1] for line in host.asked if line.startswith("hf")] == ["WORK/qwen2.5-coder-1.5b-def456"]


@pytest.mark.parametrize(
    "step",
    [
        "docker version",
        "git",
        "make",
        "docker pull",
        "docker run --rm",
        "hf",
        "keyahead engine plan",
        "keyahead engine build",
        "keyahead engine preflight",
    ],
)
def test_a_failed_step_ends_it_and_the_next_run_goes_on(host: Host, step: str) -> None:
    """Nothing that comes after is tried; once the cause is mended, the same command succeeds."""
    run = host.prove(FAKE_FAIL=step)
    assert run.returncode not in {0, None}
    assert " ".join(host.asked[-1].split()[: len(step.split())]) == step
    assert host.prove().returncode == 0


@pytest.mark.parametrize("step", ["keyahead engine serve", "keyahead serve"])
def test_a_server_that_does_not_start_is_reported_with_its_log(host: Host, step: str) -> None:
    """And what did start is stopped."""
    (host.bin / "curl").write_text("#!/bin/sh\nexit 7\n")
    if step == "keyahead serve":
        (host.bin / "curl").write_text('#!/bin/sh\ncase "$*" in *8802*) echo nv_x 1 ;; *) exit 7 ;; esac\n')
    run = host.prove(FAKE_FAIL=step)
    assert run.returncode == 2
    assert re.search(r"(triton|service) ended before it was ready: see \S+\.log", run.stderr)
    assert ("stopped keyahead engine serve" in host.asked) == (step == "keyahead serve")


def test_the_verdict_is_the_exit_code(host: Host) -> None:
    """Objectives that are missed fail the proof, and everything is still stopped."""
    run = host.prove(FAKE_FAIL="keyahead loadtest")
    assert run.returncode == 3
    assert host.asked[-2:] == ["stopped keyahead serve", "stopped keyahead engine serve"]


@pytest.mark.parametrize(
    ("product", "options"),
    [
        ("NVIDIA A10", "--gpu a10 --precision int8-sq"),
        ("NVIDIA A100-SXM4-80GB", "--gpu a100 --precision int8-sq"),
        ("NVIDIA H100 80GB HBM3", "--gpu h100 --precision fp8"),
    ],
)
def test_the_gpu_decides_the_precision(host: Host, product: str, options: str) -> None:
    """FP8 where there is FP8."""
    host.prove(FAKE_GPU=product, FAKE_FAIL="keyahead engine build")
    assert options in host.asked[-1]


@pytest.mark.parametrize(("product", "options"), [("NVIDIA A10", "--precision int4-awq"), ("NVIDIA L4", "--precision fp8")])
def test_the_llm_api_can_be_proved_as_well(host: Host, product: str, options: str) -> None:
    """On the same host with the same load, in a precision that it has, so that both can be compared."""
    host.prove(FAKE_GPU=product, FAKE_FAIL="keyahead engine build", RUNTIME="llm-api")
    assert f"{options} --runtime llm-api" in host.asked[-1]


def test_what_cannot_be_planned_is_refused_before_anything_is_fetched(host: Host) -> None:
    """Neither the image nor the model is downloaded for a plan that rules refuse."""
    run = host.prove(FAKE_FAIL="keyahead engine plan")
    assert run.returncode == 3
    assert not [line for line in host.asked if line.startswith(("docker pull", "hf"))]


def test_the_operators_word_on_a_licence_is_passed_on(host: Host) -> None:
    """The plan of 3B asks for it, and all steps have to name the same plan."""
    assert host.prove(MODEL="qwen2.5-coder-3b", ACCEPT_LICENCE="1").returncode == 0
    steps = [line for line in host.asked if line.startswith("keyahead engine")]
    assert len(steps) == 5
    assert all("--model qwen2.5-coder-3b" in line and "--accept-licence" in line for line in steps)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"FAKE_GPU": "NVIDIA A10G"}, "no plan for the GPU 'NVIDIA A10G'"),
        ({"WORK": "/nowhere/a:b"}, "/nowhere/a:b has a character"),
        ({"CHECKPOINT": "/nowhere/modèle"}, "/nowhere/modèle has a character"),
        ({"FAKE_FAIL": "keyahead engine preflight"}, "contract.log in"),
        ({"REPOSITORY": ""}, "set SOURCE to one, or REPOSITORY"),
        ({"REVISION": ""}, "set REVISION"),
        ({"FAKE_FAIL": "nvidia-smi"}, "finds no GPU"),
        ({"FAKE_USED_MB": "20480"}, "20480 MiB of the GPU's memory are in use"),
        ({"FAKE_FAIL": "python3"}, "port 8801 is taken"),
        ({"FAKE_FAIL": "git"}, "cannot be cloned"),
        ({"FAKE_FREE_GB": "44"}, "the image needs about 45 GB of disk, and / has 44 GB"),
        ({"FAKE_FREE_GB": "9", "FAKE_DOCKER_ROOT": "/nowhere"}, "qwen2.5-coder-1.5b needs about 10 GB"),
        ({"FAKE_FAIL": "docker pull"}, "reaches nvcr.io"),
        ({"FAKE_FAIL": "docker run"}, "gives a container no GPU"),
        ({"FAKE_NO_CUDA": "1"}, "install driver 590"),
        ({"FAKE_FAIL": "hf"}, "check the network and REVISION"),
    ],
)
def test_what_is_missing_is_a_sentence(host: Host, settings: dict[str, str], reason: str) -> None:
    """With the cure, or where it is said."""
    run = host.prove(**settings)
    assert run.returncode == 2
    assert reason in run.stderr


def test_shellcheck_finds_nothing() -> None:
    """ShellCheck, from Debian where this machine has none."""
    program = shutil.which("shellcheck")
    if program is None:
        folder = debs.unpacked("shellcheck", alone=True, offline=False, cure="install shellcheck", progress=SilentProgress())
        program = str(folder / "usr" / "bin" / "shellcheck")
    run = subprocess.run([program, "--enable=all", "--exclude=SC2250,SC2310,SC2312", SCRIPT], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
