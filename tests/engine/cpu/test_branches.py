"""The real engine with LoRA adapters: what they change, and that they are kept apart."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13

from keyahead.engine import adapters, catalogue
from keyahead.engine.adapters import Adapter
from keyahead.engine.contract import Array, EngineRequest
from keyahead.engine.cpu.loop import EngineLoop
from keyahead.engine.cpu.lora import Adapters
from keyahead.engine.cpu.runner import Runner
from keyahead.engine.cpu.scheduler import Limits
from keyahead.engine.tokenizer import Tokenizer
from tests import peft
from tests.engine.cpu.conftest import NUM_BLOCKS, Collector, Engine
from tests.engine.cpu.test_loop import genai_greedy

MODEL = catalogue.get("smollm2-135m")
TOKENS = 6


@pytest.fixture(scope="module")
def adapted(smol_folder: Path) -> Runner:
    """The small model with branches, compiled once; exact, so that equal outputs can be asserted."""
    return Runner(smol_folder, NUM_BLOCKS, exact=True, adapters=True)


@pytest.fixture(name="engine")
def fresh_engine(adapted: Runner, smol_folder: Path) -> Iterator[Engine]:
    """A fresh engine that takes adapters, with nothing cached."""
    loop = EngineLoop(adapted, Limits(adapted.vocab_size), NUM_BLOCKS, lambda: None)
    yield Engine(loop, Tokenizer.load(smol_folder))
    loop.close()
    loop._scheduler.pool.check_integrity()
    assert loop._scheduler.pool.num_available == NUM_BLOCKS


@pytest.fixture
def known(adapted: Runner) -> Adapters:
    """Room for some adapters."""
    return Adapters(adapted.sites, 8, 50_000_000)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, Adapter]:
    """Two adapters with other random matrices."""
    folder = tmp_path_factory.mktemp("adapters")
    one, two = (adapters.load(peft.save(folder / str(seed), peft.matrices(seed)), MODEL) for seed in (1, 2))
    return one, two


def start(
    engine: Engine, known: Adapters, ids: list[int], adapter: Adapter | None, num_tokens: int = TOKENS, namespace: str = ""
) -> Collector:
    request = EngineRequest(input_ids=tuple(ids), max_new_tokens=num_tokens, return_perf_metrics=True, namespace=namespace)
    if adapter:
        fields = {"lora_task_id": adapter.task_id, "lora_weights": adapter.weights, "lora_config": adapter.config}
        request = dataclasses.replace(request, **fields)  # type: ignore[arg-type]
    client = Collector()
    engine.loop.submit(request, client, known.of(request))
    return client


def ask(engine: Engine, known: Adapters, ids: list[int], adapter: Adapter | None, num_tokens: int = TOKENS) -> Collector:
    client = start(engine, known, ids, adapter, num_tokens)
    assert client.ended.wait(120)
    assert not client.error
    return client


def merged(folder: Path, target: Path, tensors: dict[str, Array], scale: float) -> Path:
    """The model with W + scale * B A in the place of each W, by PEFT's definition and from PEFT's own tensors."""
    shutil.copytree(folder, target)
    model = ov.Core().read_model(folder / "openvino_model.xml")
    constants = {each.get_friendly_name(): each.data for each in model.get_ops() if each.get_type_name() == "Constant"}
    for node in [each for each in model.get_ops() if each.get_type_name() == "MatMul"]:
        weight = node.input(1).get_source_output().get_node()
        while weight.inputs():
            weight = weight.input(0).get_source_output().get_node()
        name = weight.get_friendly_name()
        key = "base_model.model." + name.removesuffix(".weight").replace("[", ".").replace("]", "")
        if f"{key}.lora_A.weight" not in tensors:
            continue
        whole = (constants[name].astype(np.float32) - constants[f"{name}/zero_point"]) * constants[f"{name}/scale"].astype(np.float32)
        whole += scale * tensors[f"{key}.lora_B.weight"] @ tensors[f"{key}.lora_A.weight"]
        node.input(1).replace_source_output(opset13.constant(whole).output(0))
    ov.save_model(model, target / "openvino_model.xml", compress_to_fp16=False)
    return target


def test_output_is_that_of_the_merged_model(engine: Engine, known: Adapters, smol_folder: Path, tmp_path: Path) -> None:
    """All seven kinds of matrices, at the first, an inner and the last layer: token for token what openvino_genai decodes from a model
    whose weights were changed instead. Without the adapter it says something else.
    """
    tensors = peft.matrices(1)
    adapter = adapters.load(peft.save(tmp_path / "adapter", tensors), MODEL)
    prompts = [engine.prompt(length, offset=700 * length) for length in (5, 33, 64)]
    expected = genai_greedy(merged(smol_folder, tmp_path / "merged", tensors, scale=2.0), prompts, TOKENS)
    ours = [ask(engine, known, ids, adapter).tokens for ids in prompts]
    bare = [ask(engine, known, ids, None).tokens for ids in prompts]
    # A tie between two tokens may go either way, as in test_loop.py.
    assert sum(a == b for a, b in zip(ours, expected, strict=True)) >= len(prompts) - 1
    assert sum(a != b for a, b in zip(ours, bare, strict=True)) >= len(prompts) - 1


def test_without_an_adapter_nothing_is_changed(engine: Engine, known: Adapters, runner: Runner, pair: tuple[Adapter, Adapter]) -> None:
    """A step without one gives what a model without branches gives, also after steps with one."""
    plain = Engine(EngineLoop(runner, Limits(runner.vocab_size), NUM_BLOCKS, lambda: None), engine.tokenizer)
    prompts = [engine.prompt(length, offset=900 * length) for length in (7, 40)]
    expected = [plain.ask(ids, max_new_tokens=TOKENS).tokens for ids in prompts]
    plain.loop.close()
    ask(engine, known, prompts[0], pair[0])
    assert [ask(engine, known, ids, None).tokens for ids in prompts] == expected


def test_side_by_side_each_gets_its_own(engine: Engine, known: Adapters, pair: tuple[Adapter, Adapter]) -> None:
    """Two prompts, each asked for with one adapter, another and none, all at once: what each says alone."""
    kinds = (*pair, None)
    prompts = [engine.prompt(40, offset=3000 + 500 * turn) for turn in range(2)]
    alone = [[ask(engine, known, ids, adapter).tokens for adapter in kinds] for ids in prompts]
    assert all(len(set(map(tuple, answers))) == len(kinds) for answers in alone)
    started = [[start(engine, known, ids, adapter, namespace="fresh") for adapter in kinds] for ids in prompts]
    for clients, answers in zip(started, alone, strict=True):
        assert all(client.ended.wait(120) for client in clients)
        assert [client.tokens for client in clients] == answers


def test_kv_of_one_adapter_is_not_another_ones(engine: Engine, known: Adapters, pair: tuple[Adapter, Adapter]) -> None:
    """The same prompt in the same namespace is computed anew for each adapter, and then found again by its own."""
    ids = engine.prompt(97)
    for adapter in (None, *pair):
        first = ask(engine, known, ids, adapter, 1).perf
        again = ask(engine, known, ids, adapter, 1).perf
        assert first is not None
        assert again is not None
        assert (first.reused_blocks, again.reused_blocks) == (0, 3)
