"""Building: each phase once, whole or not at all; what was made from what is written down; another GPU is refused."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from keyahead.engine.store import SetupError, SilentProgress
from keyahead.engine.tokenizer import Tokenizer
from keyahead.engine.trtllm import build, gpus
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import Precision
from tests.engine.trtllm.samples import checkpoint, code, facts

PLAN = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8)
PHASES = ["quantize.py", "trtllm-build"]


class Host:
    """Runs docker commands in its head; remembers programs, and fails where it is told to."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = facts(gpus.get("l4"), "NVIDIA L4")
        self.ran: list[str] = []
        self.fails = ""

    def run(self, command: Sequence[str], log: Path) -> None:
        words = list(command)
        inside = words[words.index(PLAN.image.reference) + 1 :]
        program = next(word for word in inside if word != "python3").rpartition("/")[2]
        volumes = [word.split(":") for option, word in itertools.pairwise(words) if option == "--volume"]
        targets = {target: host for host, target, *_ in volumes}
        log.write_text(json.dumps(self.facts) if program == "probe.py" else "")
        if program == "probe.py":
            return
        self.ran.append(program)
        folder = Path(targets["/made/engine" if program == "trtllm-build" else "/made/checkpoint"])
        (folder / "half").write_text("half of it")
        if program == self.fails:
            raise SetupError("docker ended with 3")
        (folder / "half").rename(folder / "result")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with an L4 and a disk that is large enough."""
    monkeypatch.setattr(build, "require_free_space", lambda *_: None)
    return Host()


def made(host: Host, tmp_path: Path, **changes: object) -> Path:
    """A build into the test's folder."""
    source = tmp_path / "hf"
    if not source.exists():
        checkpoint(source, **changes)
        code(tmp_path / "code")
    return build.build(PLAN, source, tmp_path / "work", host.run, SilentProgress(), code=tmp_path / "code")


def test_an_engine_and_its_manifest(host: Host, tmp_path: Path) -> None:
    """The folder has tokenizer, calibration, checkpoint and engine, and the manifest says how each came about."""
    folder = made(host, tmp_path)
    assert host.ran == PHASES
    assert (folder / "engine" / "result").is_file()
    assert Tokenizer.load(folder / "tokenizer").encode("abab") == [2, 2]
    assert (folder / "calibration" / "train.jsonl").is_file()
    manifest = build.read_manifest(folder)
    assert manifest["origin"] == {"gpu": "NVIDIA L4", "compute_capability": "8.9", "tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48"}
    assert manifest["plan"]["build_command"] == list(PLAN.build_command)
    assert sorted(manifest["source"]) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert manifest["engine"] == build.digests(folder / "engine", SilentProgress())
    assert manifest["phases"]["engine"]["command"][-len(PLAN.build_command) :] == list(PLAN.build_command)


def test_what_is_there_is_not_made_again(host: Host, tmp_path: Path) -> None:
    """The same command a second time only looks."""
    made(host, tmp_path)
    made(host, tmp_path)
    assert host.ran == PHASES


def test_an_interrupted_build_goes_on(host: Host, tmp_path: Path) -> None:
    """The failed phase leaves nothing, and only that is run again."""
    host.fails = "trtllm-build"
    with pytest.raises(SetupError, match="ended with 3"):
        made(host, tmp_path)
    folder = tmp_path / "work" / PLAN.name
    assert not (folder / "engine").exists()
    assert not list(folder.glob(".*part*"))
    host.fails = ""
    made(host, tmp_path)
    assert host.ran == ["quantize.py", "trtllm-build", "trtllm-build"]
    assert build.read_manifest(folder)["phases"].keys() == {"checkpoint", "engine"}


def test_a_container_that_would_fail_its_preflight_is_refused_first(host: Host, tmp_path: Path) -> None:
    """Before minutes of a rented GPU go into an engine that must not serve."""
    host.facts["config"] = host.facts["config"].replace("cuda_graph_mode", "graphs")
    with pytest.raises(SetupError, match=r"not what the plan assumes \(parameters: it knows no cuda_graph_mode\)"):
        made(host, tmp_path)
    assert host.ran == []


def test_a_folder_that_cannot_be_made_is_a_sentence(host: Host, tmp_path: Path) -> None:
    """With what stands in the way, and nothing run."""
    (tmp_path / "work").write_text("a file")
    with pytest.raises(SetupError, match="a file stands where a folder should be"):
        made(host, tmp_path)
    assert host.ran == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tensorrt_llm": "1.2.0"}, "TensorRT-LLM was 1.2.1 and is 1.2.0"),
        ({"tensorrt": "10.13.3.9"}, "TensorRT was 10.14.1.48 and is 10.13.3.9"),
    ],
)
def test_an_engine_of_another_version_is_refused(host: Host, tmp_path: Path, changes: dict[str, str], reason: str) -> None:
    """It is named, with both versions; nothing is run."""
    made(host, tmp_path)
    host.facts |= changes
    with pytest.raises(SetupError, match=reason):
        made(host, tmp_path)
    assert host.ran == PHASES


@pytest.mark.parametrize(("gpu", "product"), [("a10", "NVIDIA A10"), ("l4", "NVIDIA L40S")])
def test_another_gpu_is_refused(host: Host, tmp_path: Path, gpu: str, product: str) -> None:
    """Even one of the same compute capability: the engine's kernels were chosen by timing them on the card."""
    host.facts = facts(gpus.get(gpu), product)
    with pytest.raises(SetupError, match=f"The plan is for l4, and the GPU here is {product}"):
        made(host, tmp_path)
    assert host.ran == []


def test_an_engine_built_on_another_gpu_is_refused(host: Host, tmp_path: Path) -> None:
    """A manifest from another card, as after copying a folder between hosts."""
    folder = made(host, tmp_path)
    manifest = build.read_manifest(folder)
    manifest["origin"]["gpu"] = "NVIDIA A10"
    (folder / build.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(SetupError, match="the GPU was NVIDIA A10 and is NVIDIA L4"):
        made(host, tmp_path)


def test_other_weights_are_refused(host: Host, tmp_path: Path) -> None:
    """A folder begun from one checkpoint is not finished from another."""
    made(host, tmp_path)
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"others")
    with pytest.raises(SetupError, match="begun from other weights"):
        made(host, tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"vocab_size": 152064}, "vocab_size is 152064, not 151936"), ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM")],
)
def test_a_checkpoint_of_another_model_is_refused(host: Host, tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    """Before the container is even looked at."""
    with pytest.raises(SetupError, match=reason):
        made(host, tmp_path, **changes)
    assert not (tmp_path / "work").exists()


def test_the_dry_run_shows_what_is_run(host: Host, tmp_path: Path) -> None:
    """The very commands, but for the temporary name of a folder that is being filled."""
    shown = build.commands(PLAN, tmp_path / "hf", tmp_path / "work" / PLAN.name)
    ran: list[list[str]] = []

    def run(command: Sequence[str], log: Path) -> None:
        ran.append([word.replace(f".{os.getpid()}.part:", ":").replace("/.", "/") for word in command])
        host.run(command, log)

    build.build(PLAN, checkpoint(tmp_path / "hf"), tmp_path / "work", run, SilentProgress(), code=code(tmp_path / "code"))
    assert ran == shown


def test_a_folder_without_an_engine_says_what_to_run(tmp_path: Path) -> None:
    """Who checks before building is told so."""
    with pytest.raises(SetupError, match="keyahead engine build"):
        build.read_manifest(tmp_path)
