"""An engine made where nobody can start containers: judged before and after, and the script runs the plan's commands once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keyahead.engine.store import SetupError, SilentProgress
from keyahead.engine.trtllm import gpus, job
from keyahead.engine.trtllm.build import digests, read_manifest
from keyahead.engine.trtllm.image import Image
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import Precision
from keyahead.engine.trtllm.proposal import Limits, Runtime
from keyahead.stack import preflight
from tests.engine.trtllm.samples import checkpoint, code, facts

PLAN = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8)
FAKE = f"""#!{sys.executable}
import os, pathlib, sys
words = [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(" ".join(words) + "\\n")
if words[0] == os.environ["FAKE_FAIL"]:
    sys.exit(3)
folder = pathlib.Path(words[words.index("--output_dir") + 1])
folder.mkdir(exist_ok=True)
(folder / "result").write_text(words[0])
"""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A prepared folder."""
    job.prepare(PLAN, checkpoint(tmp_path / "checkpoint"), tmp_path / "release", code(tmp_path / "code"))
    return tmp_path / "release"


def build(release: Path, fail: str = "") -> tuple[int, list[str]]:
    """Run the script where the container's programs keep a record: exit code and commands."""
    programs = release.parent / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("python3", "trtllm-build"):
        (programs / name).write_text(FAKE)
        (programs / name).chmod(0o755)
    log = release.parent / "log"
    log.write_text("")
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "FAKE_LOG": str(log), "FAKE_FAIL": fail}
    run = subprocess.run(["sh", release / job.SCRIPT], env=environment, capture_output=True, text=True, timeout=60, check=False)
    return run.returncode, log.read_text().splitlines()


def test_the_script_runs_the_plan_in_the_folder(release: Path) -> None:
    """The plan's two commands, word for word but for the places; then the engine is built."""
    places = {"/checkpoint": f"{release.parent}/checkpoint", "/calibration": f"{release}/calibration"}
    places |= {f"/made/{name}": f"{release}/{name}" for name in ("checkpoint", "engine")}
    expected = [" ".join(places.get(word, word) for word in command) for command in (PLAN.checkpoint_command, PLAN.build_command)]
    assert build(release) == (0, expected)
    assert job.is_built(release)
    assert (release / "calibration" / "train.jsonl").exists()
    assert not [word for line in expected for word in line.split() if word.startswith(("/made", "/calibration", "/checkpoint"))]


def test_what_is_built_is_not_built_again(release: Path) -> None:
    """The Job may run as often as it likes."""
    build(release)
    assert build(release) == (0, [])


def test_a_failure_leaves_nothing_built(release: Path) -> None:
    """The next try begins anew."""
    code, commands = build(release, fail="trtllm-build")
    assert code == 3
    assert len(commands) == 2
    assert not job.is_built(release)
    assert build(release)[0] == 0


def probed(release: Path, gpu: str = "l4", product: str = "NVIDIA L4", **changes: Any) -> None:
    """What the container's probe prints into the folder."""
    (release / job.PROBE_LOG).write_text("== greeting ==\n" + json.dumps(facts(gpus.get(gpu), product, **changes)) + "\n")


def checked(release: Path) -> preflight.Report:
    """As `keyahead engine check` does."""
    return preflight.check(release, SilentProgress())


def test_checks_before_and_after_make_it_whole(release: Path) -> None:
    """The first begins the manifest, the second finishes it and leaves the file that Triton waits for; a third finds all as it was."""
    probed(release)
    assert checked(release).to_text().endswith("The engine may be built.\n")
    assert not (release / job.WHOLE).exists()
    assert "engine" not in read_manifest(release)
    _, commands = build(release)
    assert checked(release).to_text().endswith("The engine may serve.\n")
    manifest = read_manifest(release)
    assert (release / job.WHOLE).exists()
    assert manifest["origin"] == {"gpu": "NVIDIA L4", "compute_capability": "8.9", "tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48"}
    assert manifest["engine"] == digests(release / "engine", SilentProgress())
    assert sorted(manifest["source"]) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert [" ".join(phase["command"]) for phase in manifest["phases"].values()] == commands
    assert checked(release).passed
    assert read_manifest(release) == manifest
    assert json.loads((release / "preflight.json").read_text())["passed"]


def test_no_probe_is_a_sentence(release: Path) -> None:
    """Who forgets a step is told which."""
    with pytest.raises(SetupError, match=r"run probe\.py in the container first"):
        checked(release)


def test_another_gpu_is_refused_before_anything_is_built(release: Path) -> None:
    """Even if a node was labelled wrongly."""
    probed(release, "a10", "NVIDIA A10")
    with pytest.raises(SetupError, match="The plan is for l4, and the GPU here is NVIDIA A10"):
        checked(release)


def test_another_container_does_not_pass(release: Path) -> None:
    """The report says what is different."""
    probed(release, tensorrt_llm="1.3.0")
    report = checked(release)
    assert report.to_text().endswith("The engine must not be built.\n")
    assert "1.3.0, planned: 1.2.1" in report.to_text()


def test_an_engine_of_another_version_is_refused(release: Path) -> None:
    """A folder that was begun by one container is not used by another."""
    probed(release)
    checked(release)
    probed(release, tensorrt="10.13.3.9")
    with pytest.raises(SetupError, match=r"TensorRT was 10\.14\.1\.48 and is 10\.13\.3\.9"):
        checked(release)


def test_an_engine_of_another_plan_is_refused(release: Path, tmp_path: Path) -> None:
    """What is built is kept, so an engine for 8 drafts would be served as one for 24; the repository that is served stays, too."""
    probed(release)
    build(release)
    checked(release)
    other = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8, Limits(max_batch_size=8))
    with pytest.raises(SetupError, match=r"was begun for qwen2\.5-coder-1\.5b-l4-fp8-\w{8}, and the plan is"):
        job.prepare(other, tmp_path / "checkpoint", release, None)
    assert "max_batch_size: 32" in (release / "repository" / "tensorrt_llm" / "config.pbtxt").read_text()
    assert checked(release).passed


def test_a_changed_engine_does_not_pass(release: Path) -> None:
    """Its files are held to the manifest each time."""
    probed(release)
    build(release)
    checked(release)
    (release / "engine" / "result").write_text("other")
    assert [each.what for each in checked(release).findings if each.fatal and not each.ok] == ["engine"]


@pytest.mark.parametrize("is_built", [False, True])
def test_a_wrong_type_in_the_repository_does_not_pass(release: Path, is_built: bool) -> None:
    """Triton would believe it; the backend would read other bytes than were meant. The report names the tensor, before a build or after."""
    probed(release)
    if is_built:
        build(release)
        checked(release)
        assert (release / job.WHOLE).exists()
    config = release / "repository" / "tensorrt_llm" / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_UINT64", "TYPE_INT64", 1))
    [wrong] = [each for each in checked(release).findings if each.fatal and not each.ok]
    assert wrong.what == "repository"
    assert "tensorrt_llm/config.pbtxt; seed: type UINT64 is INT64 there: prepare it anew" in wrong.detail
    assert not (release / job.WHOLE).exists()


def test_an_engine_that_was_whole_is_no_longer_on_another_gpu(release: Path) -> None:
    """Triton does not go by the word of an earlier check."""
    probed(release)
    build(release)
    checked(release)
    probed(release, "a10", "NVIDIA A10")
    with pytest.raises(SetupError):
        checked(release)
    assert not (release / job.WHOLE).exists()


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        Plan.make("qwen2.5-coder-3b", "h100", Precision.BF16, Limits(8, 1000, 100, 0, 2000), licence_accepted=True),
        Plan.make("qwen2.5-coder-7b", "a100", Precision.INT4_AWQ, runtime=Runtime.LLM_API, image=Image(digest="sha256:" + "0" * 64)),
        Plan.make("qwen2.5-coder-7b", "h100", Precision.FP8, build={"paged_kv_cache": "enable"}, serving={"cuda_graph_mode": "false"}),
    ],
    ids=["fp8", "3b", "llm-api", "replaced"],
)
def test_a_plan_is_found_as_it_was_made(plan: Plan, tmp_path: Path) -> None:
    """The steps agree on it without being told again."""
    network = plan.proposal.network
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
    source = checkpoint(tmp_path / "hf", **{name: getattr(network, name) for name in (*names, "tie_word_embeddings")})
    job.prepare(plan, source, tmp_path / "release", code(tmp_path / "code"))
    found, checkpoint_folder = job.read_plan(tmp_path / "release")
    assert (found.proposal, found.image, checkpoint_folder) == (plan.proposal, plan.image, source)


def test_the_llm_apis_checkpoint_is_copied(tmp_path: Path) -> None:
    """By the container's cp, and served from the folder that the repository names."""
    plan, release = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.BF16, runtime=Runtime.LLM_API), tmp_path / "release"
    source = checkpoint(tmp_path / "checkpoint")
    job.prepare(plan, source, release, None)
    assert build(release) == (0, [])
    assert (release / "checkpoint" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    written = json.loads((release / "repository" / "tensorrt_llm" / "1" / "llm.json").read_text())
    assert written["llm"]["model"] == str(release / "checkpoint")


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(SetupError, match="num_hidden_layers"):
        job.prepare(PLAN, checkpoint(tmp_path / "checkpoint", num_hidden_layers=2), tmp_path / "release", None)
    assert not (tmp_path / "release").exists()
