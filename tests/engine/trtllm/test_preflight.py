"""A container that is not what the plan assumes is found out, point by point."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from keyahead.engine.contract import INPUTS, OUTPUTS
from keyahead.engine.store import SetupError
from keyahead.engine.trtllm import gpus
from keyahead.engine.trtllm.facts import Facts
from keyahead.engine.trtllm.image import Image
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import Precision
from keyahead.engine.trtllm.preflight import compare, declared
from tests.engine.trtllm.samples import facts, template

PLAN = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8)


def found(**changes: Any) -> dict[str, tuple[bool, bool, str]]:
    """The findings by name, for a container that differs in this."""
    output = "== greeting ==\n" + json.dumps(facts(gpus.get("l4"), "NVIDIA L4", **changes)) + "\n"
    return {each.what: (each.ok, each.fatal, each.detail) for each in compare(PLAN, Facts.parse(output))}


def test_the_pinned_container_is_right() -> None:
    """Everything is compared, and everything agrees."""
    findings = found()
    assert all(ok for ok, _, _ in findings.values()), findings
    assert findings.keys() == {
        "TensorRT-LLM",
        "TensorRT",
        "Triton's release",
        "GPU",
        "driver",
        "trtllm-build --help",
        "quantize.py --help",
        "inputs",
        "outputs",
        "parameters",
    }


def gpu(**changes: str) -> dict[str, object]:
    """What nvidia-smi says, changed."""
    return {"gpu": {**facts(gpus.get("l4"), "NVIDIA L4")["gpu"], **changes}}


HELP = facts(gpus.get("l4"), "NVIDIA L4")["help"]


def helped(program: str, old: str, new: str) -> dict[str, object]:
    """A program's --help, changed."""
    return {"help": {**HELP, program: HELP[program].replace(old, new)}}


def configured(old: str, new: str) -> dict[str, object]:
    """NVIDIA's config.pbtxt, changed."""
    assert old in template()
    return {"config": template().replace(old, new)}


@pytest.mark.parametrize(
    ("what", "changes", "detail"),
    [
        ("TensorRT-LLM", {"tensorrt_llm": "1.3.0"}, "1.3.0, planned: 1.2.1"),
        ("TensorRT", {"tensorrt": None}, "unknown, planned"),
        ("Triton's release", {"triton_release": "26.04"}, "26.04, planned: 26.07"),
        ("GPU", gpu(name="NVIDIA A10", compute_cap="8.6"), r"NVIDIA A10 \(8.6\), planned: l4 \(8.9\)"),
        ("GPU", {"gpu": None}, "none"),
        ("trtllm-build --help", helped("trtllm-build", "max_draft_len", "x"), "--max_draft_len"),
        ("trtllm-build --help", helped("trtllm-build", "draft_tokens_external,", ""), "has no draft_tokens_external"),
        ("quantize.py --help", helped("quantize.py", "fp8,", ""), "has no fp8"),
        ("quantize.py --help", {"help": {**HELP, "quantize.py": None}}, "cannot be run"),
        (
            "inputs",
            configured('"draft_input_ids"\n    data_type: TYPE_INT32', '"draft_input_ids"\n    data_type: TYPE_INT64'),
            "draft_input_ids: type",
        ),
        ("inputs", configured('"seed"', '"random_seed"'), "seed is not there"),
        ("inputs", configured("dims: [ 2, -1 ]", "dims: [ -1 ]"), r"stop_words_list: dims \[2, -1\] is \[-1\] there"),
        (
            "outputs",
            configured('"acceptance_rate"\n    data_type: TYPE_FP32', '"acceptance_rate"\n    data_type: TYPE_FP16'),
            "acceptance_rate: type",
        ),
        ("parameters", configured("cuda_graph_mode", "graphs"), "knows no cuda_graph_mode"),
        ("config.pbtxt", {"config": None}, "none"),
    ],
)
def test_a_difference_is_fatal_and_named(what: str, changes: dict[str, Any], detail: str) -> None:
    """The engine must not serve, and the report says which point it is."""
    ok, fatal, said = found(**changes)[what]
    assert (ok, fatal) == (False, True)
    assert re.search(detail, said), said


def test_an_older_driver_is_a_note() -> None:
    """Data-centre GPUs may run a newer CUDA on it; NVIDIA's release notes say which."""
    ok, fatal, detail = found(**gpu(driver_version="580.95.05"))["driver"]
    assert (ok, fatal) == (False, False)
    assert "forward compatibility" in detail


@pytest.mark.parametrize(("tag", "release", "right"), [("26.04", "26.04", True), ("26.04", "26.07", False), ("25.10", "25.10", True)])
def test_the_release_is_that_of_the_tag(tag: str, release: str, right: bool) -> None:
    """26.04 has the same TensorRT-LLM as 26.07, and is the one to fall back to; 25.10 is refused for its TensorRT-LLM."""
    plan = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8, image=Image(f"{tag}-trtllm-python-py3"))
    output = json.dumps(facts(gpus.get("l4"), "NVIDIA L4", triton_release=release))
    assert {each.what: each.ok for each in compare(plan, Facts.parse(output))}["Triton's release"] == right


@pytest.mark.parametrize(("version", "same"), [("10.14.1.48.post1", True), ("10.14.1.480", False), ("10.14.2.post1", False)])
def test_a_wheel_packed_anew_is_the_same_version(version: str, same: bool) -> None:
    """NVIDIA published TensorRT 10.14.1.48 twice."""
    assert found(tensorrt=version)["TensorRT"][0] == same


def test_every_tensor_of_a_template_is_read() -> None:
    """Whatever the order, comments, blanks and foreign tensors."""
    tensors = declared(template())
    assert {name for kind, name in tensors if kind == "input"} == {tensor.name for tensor in INPUTS} | {"draft_logits"}
    assert {name for kind, name in tensors if kind == "output"} == {tensor.name for tensor in OUTPUTS} | {"draft_logits"}
    assert tensors["input", "draft_logits"].datatype == "${logits_datatype}"


@pytest.mark.parametrize("output", ["", "no json", "{}", '{"gpu": 3}'])
def test_a_probe_that_says_nothing_is_an_error(output: str) -> None:
    """Its cure is to look at the container by hand."""
    with pytest.raises(SetupError, match="by hand"):
        Facts.parse(output)
