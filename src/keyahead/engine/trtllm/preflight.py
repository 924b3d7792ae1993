"""Whether a container is what the plan assumes: its options, tensors, parameters and versions, compared with the container's own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from keyahead.engine.contract import INPUTS, OUTPUTS, Tensor
from keyahead.engine.llmapi.sampling import SETTINGS
from keyahead.engine.trtllm import image, llm_api
from keyahead.engine.trtllm.facts import Facts
from keyahead.engine.trtllm.plan import Plan

_DECLARED = re.compile(
    r'name:\s*"(?P<name>\w+)"\s+data_type:\s*(?P<type>\S+)\s+dims:\s*\[(?P<dims>[^\]]*)\](?P<rest>.*?)(?=name:|\binput\b|\boutput\b|\Z)',
    re.DOTALL,
)
_CHOICES = ("--speculative_decoding_mode", "--qformat", "--dtype", "--export_format")
"""Options whose values --help lists."""
_PARAMETER = re.compile(r'key:\s*"(\w+)"')


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison."""

    what: str
    ok: bool
    detail: str
    """What was found and, unless all is well, what it means."""
    fatal: bool = True
    """Whether the engine must not be served if it is not well."""


def compare(plan: Plan, facts: Facts) -> list[Finding]:
    """All comparisons, in the order to show them."""
    interface = _config(plan, facts.config) if plan.build_command else _llm_api(plan, facts.llm_api)
    return [*_versions(plan, facts), *_programs(plan, facts), *interface]


def declared(config: str) -> dict[tuple[str, str], Tensor]:
    """The tensors of a config.pbtxt by kind, `input` or `output`, and name."""
    text = re.sub(r"#.*", "", config)
    start = re.search(r"^output\b", text, re.MULTILINE)
    end = start.start() if start else len(text)
    return {(kind, each.name): each for kind, part in (("input", text[:end]), ("output", text[end:])) for each in _tensors(part)}


def problems(config: str, kind: str) -> list[str]:
    """Where the tensors of a config.pbtxt are not the contract's, one clause each; of kind `input` or `output`."""
    theirs = declared(config)
    tensors = INPUTS if kind == "input" else OUTPUTS
    return [problem for tensor in tensors if (problem := _problem(tensor, theirs.get((kind, tensor.name))))]


def _tensors(text: str) -> Iterator[Tensor]:
    for match in _DECLARED.finditer(text):
        dims = tuple(int(number) for number in match["dims"].replace(",", " ").split())
        rest = match["rest"]
        yield Tensor(match["name"], match["type"].removeprefix("TYPE_"), dims, "optional: true" in rest, "reshape:" in rest)


def _versions(plan: Plan, facts: Facts) -> Iterator[Finding]:
    here, gpu = facts.origin, plan.proposal.gpu
    yield _equal("TensorRT-LLM", image.TRTLLM_VERSION, here.tensorrt_llm)
    # The same libraries in a wheel that was packed anew: PyPI has 10.14.1.48 and 10.14.1.48.post1.
    yield _equal("TensorRT", image.TENSORRT_VERSION, re.sub(r"\.post\d+$", "", here.tensorrt))
    yield _equal("Triton's release", plan.image.release, facts.triton_release)
    right = gpu.is_called(here.gpu) and gpu.compute_capability == here.compute_capability
    yield Finding("GPU", right, f"{here.gpu or 'none'} ({here.compute_capability or '?'}), planned: {gpu.name} ({gpu.compute_capability})")
    recent = _numbers(facts.driver) >= _numbers(image.DRIVER_VERSION)
    hint = "" if recent else ": data-centre GPUs may run on it by CUDA's forward compatibility, so see the container's release notes"
    yield Finding("driver", recent, f"{facts.driver or 'unknown'}, the container is made for {image.DRIVER_VERSION}{hint}", fatal=False)


def _programs(plan: Plan, facts: Facts) -> Iterator[Finding]:
    if plan.build_command:
        yield _options("trtllm-build", plan.build_command, facts.help.get("trtllm-build", ""))
    program = plan.checkpoint_command[1].rpartition("/")[2]
    if program.endswith(".py"):
        yield _options(program, plan.checkpoint_command, facts.help.get(program, ""))


def _options(program: str, command: Iterable[str], text: str) -> Finding:
    if not text:
        return Finding(f"{program} --help", False, "it cannot be run in the container")
    words = list(command)
    chosen = [value for option, value in itertools.pairwise(words) if option in _CHOICES]
    used = [*(word for word in words if word.startswith("--")), *chosen]
    missing = [word for word in used if not re.search(rf"{re.escape(word)}\b", text)]
    return Finding(f"{program} --help", not missing, f"has no {', '.join(missing)}" if missing else "knows every option of the plan")


def _config(plan: Plan, config: str) -> Iterator[Finding]:
    if not declared(config):
        yield Finding("config.pbtxt", False, "the container has none, or one that cannot be read")
        return
    for kind, tensors in (("input", INPUTS), ("output", OUTPUTS)):
        found = problems(config, kind)
        yield Finding(f"{kind}s", not found, "; ".join(found) or f"all {len(tensors)} are the container's own")
    unknown = plan.proposal.serving.keys() - set(_PARAMETER.findall(config))
    yield Finding(
        "parameters", not unknown, f"it knows no {', '.join(sorted(unknown))}" if unknown else "it knows every parameter of the plan"
    )


def _llm_api(plan: Plan, found: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    arguments = llm_api.arguments(plan.proposal, "")
    used: dict[str, Iterable[str]] = {
        "TorchLlmArgs": arguments,
        "SamplingParams": SETTINGS,
        "KvCacheConfig": cast("dict[str, object]", arguments["kv_cache_config"]),
        "NGramDecodingConfig": cast("dict[str, object]", arguments.get("speculative_config", {})),
        "generate_async": ("sampling_params", "streaming", "cache_salt"),
    }
    for what, names in used.items():
        missing = sorted(set(names) - set(found.get(what, ())))
        yield Finding(f"LLM API: {what}", not missing, f"has no {', '.join(missing)}" if missing else "takes all that is passed")


def _problem(ours: Tensor, theirs: Tensor | None) -> str | None:
    if theirs is None:
        return f"{ours.name} is not there"
    pairs = {
        "type": (ours.datatype, theirs.datatype),
        "dims": (list(ours.dims), list(theirs.dims)),
        "reshape": (ours.scalar, theirs.scalar),
    }
    wrong = [f"{what} {mine} is {its} there" for what, (mine, its) in pairs.items() if mine != its]
    return f"{ours.name}: {', '.join(wrong)}" if wrong else None


def _equal(what: str, planned: str, found: str) -> Finding:
    return Finding(what, planned == found, f"{found or 'unknown'}, planned: {planned}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
