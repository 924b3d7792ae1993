"""What the benchmarks share: the real default model, an engine in this process, code to complete, and one way to report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import openvino as ov
import openvino_genai
from rich.console import Console
from rich.table import Table

from keyahead.engine import catalogue, fetch
from keyahead.engine.catalogue import Model
from keyahead.engine.contract import BLOCK_TOKENS, EngineRequest, EngineResponse, Perf
from keyahead.engine.cpu import convert
from keyahead.engine.cpu.blocks import Block
from keyahead.engine.cpu.loop import EngineLoop
from keyahead.engine.cpu.runner import Runner
from keyahead.engine.cpu.scheduler import Limits, Slice, Step
from keyahead.engine.cpu.sequence import Sequence as EngineSequence
from keyahead.engine.cpu.warmup import warm_up
from keyahead.engine.store import RichProgress
from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.generations import MAX_NEWLINE_STOPS
from keyahead.service.prompt import Prompt, PromptBuilder

MODEL = "qwen2.5-coder-0.5b"
SEED = 1
NUM_BLOCKS = 512
"""KV memory of the CPU engine's default, 16,384 tokens."""
TIMEOUT_S = 300.0
LINE_TOKENS = 32
"""The service's default for a single line (`single_line_tokens`)."""
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
_PACKAGES = ("keyahead", "openvino", "openvino-genai", "numpy")

Key = TypeVar("Key")


@dataclass(eq=False)
class Client:
    """Collects what the engine sends for one request."""

    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    error: str = ""
    perf: Perf | None = None
    first: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def send(self, response: EngineResponse, *, final: bool) -> None:
        """New tokens."""
        self.tokens += response.output_ids
        self.log_probs += response.log_probs or ()
        self.first.set()
        if final:
            self.perf = response.perf
            self.ended.set()

    def fail(self, message: str) -> None:
        """The end without a result."""
        self.error = message
        self.first.set()
        self.ended.set()

    def is_cancelled(self) -> bool:
        """Never by leaving."""
        return False

    def result(self) -> Perf:
        """Wait for the end; the engine's own timings. RuntimeError if it failed."""
        if not self.ended.wait(TIMEOUT_S) or self.error or self.perf is None:
            raise RuntimeError(self.error or f"no answer within {TIMEOUT_S:.0f} s")
        return self.perf


class Engine:
    """The CPU engine as Triton runs it, in this process."""

    def __init__(self, model: Model, folder: Path, *, exact: bool = False) -> None:
        self.model = model
        self.tokenizer = Tokenizer.load(folder)
        self.builder = PromptBuilder(model, self.tokenizer)
        self.runner = Runner(folder, NUM_BLOCKS, exact=exact)
        self.limits = warm_up(self.runner, Limits(self.runner.vocab_size))
        self.loop = EngineLoop(self.runner, self.limits, NUM_BLOCKS, on_crash=lambda: None)
        self.ends = [self.tokenizer.control(name) for name in model.end_tokens]
        newlines = self.tokenizer.ids_containing(b"\n")[:MAX_NEWLINE_STOPS]
        self._line_stops = tuple((token,) for token in (*self.ends[1:], *newlines))
        self._code = "\n".join(path.read_text() for path in library()[:40])

    def start(self, ids: Sequence[int], **changes: Any) -> tuple[Client, EngineSequence]:
        """Queue a request."""
        client = Client()
        request = EngineRequest(input_ids=tuple(ids), return_perf_metrics=True, **changes)
        return client, self.loop.submit(request, client)

    def ask(self, ids: Sequence[int], **changes: Any) -> Client:
        """A request and its end."""
        client, _ = self.start(ids, **changes)
        client.result()
        return client

    def code(self, num_tokens: int, offset: int) -> list[int]:
        """So many tokens of real code, from a character on."""
        return self.tokenizer.encode(self._code[offset : offset + num_tokens * 8])[:num_tokens]

    def line(self, prompt: Prompt, namespace: str = "", max_tokens: int = LINE_TOKENS) -> list[int]:
        """Decode to the end of the line as the service does: one constrained token where the prompt was healed, then freely."""
        tokens: list[int] = []
        if prompt.healed:
            bias = self.builder.first_token_bias(prompt.healed)
            tokens = self.ask(prompt.tokens, max_new_tokens=1, embedding_bias=bias, namespace=namespace).tokens
        if b"\n" in b"".join(map(self.tokenizer.token_bytes, tokens))[len(prompt.healed) :]:
            return tokens
        rest = {"max_new_tokens": max_tokens - len(tokens), "end_id": self.ends[0], "stop_words": self._line_stops}
        return [*tokens, *self.ask((*prompt.tokens, *tokens), namespace=namespace, **rest).tokens]


@contextmanager
def running_engine(name: str = MODEL, *, exact: bool = False) -> Iterator[Engine]:
    """A model's engine, warm and with an empty cache; the model is fetched and converted first if it is not there."""
    model = catalogue.get(name)
    engine = Engine(model, model_folder(model), exact=exact)
    try:
        yield engine
    finally:
        engine.loop.close()


def model_folder(model: Model) -> Path:
    """The converted model."""
    progress = RichProgress()
    return convert.find(model) or convert.convert(model, fetch.fetch(model, progress=progress), progress)


class Genai:
    """openvino_genai's own pipeline on the same converted model: greedy, without a chat template."""

    def __init__(self, model: Model) -> None:
        self._pipeline = openvino_genai.LLMPipeline(str(model_folder(model)), "CPU")

    def greedy(self, ids: Sequence[int], max_tokens: int, stop_ids: Sequence[int] = ()) -> list[int]:
        """The continuation of a prompt; without `stop_ids` it has exactly `max_tokens`."""
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.do_sample, config.apply_chat_template = max_tokens, False, False
        config.ignore_eos, config.stop_token_ids = not stop_ids, set(stop_ids)
        tokens = ov.Tensor(np.array([ids], dtype=np.int64))
        mask = ov.Tensor(np.ones((1, len(ids)), dtype=np.int64))
        return list(self._pipeline.generate(openvino_genai.TokenizedInputs(tokens, mask), config).tokens[0])


def bare_step(tokens: Sequence[int], start: int, num_drafts: int = 0) -> Step:
    """A step for the runner alone, behind `start` tokens; it uses the first blocks, so the engine must be idle and its cache not needed."""
    sequence = EngineSequence(EngineRequest(input_ids=tuple(tokens)))
    sequence.blocks = [Block(index) for index in range(-(-(start + len(tokens)) // BLOCK_TOKENS))]
    return Step([Slice(sequence, start, tuple(tokens), num_drafts, samples=True)])


def library() -> list[Path]:
    """The modules of the running Python's standard library, in order."""
    return sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py"))


def interleaved(rounds: int, measures: Mapping[Key, Callable[[], float]]) -> dict[Key, list[float]]:
    """Take every measure once a round, in a new order each, so that what else the machine does falls on all alike."""
    order = list(measures)
    samples: dict[Key, list[float]] = {key: [] for key in order}
    shuffler = random.Random(SEED)  # noqa: S311 - an order, not a secret
    for _ in range(rounds):
        shuffler.shuffle(order)
        for key in order:
            samples[key].append(measures[key]())
    return samples


def median_ratio(values: Sequence[float], baseline: Sequence[float]) -> float:
    """Median over the rounds of a measure against its baseline in the same round."""
    return statistics.median(value / base for value, base in zip(values, baseline, strict=True))


def arguments(about: str | None, limit: int | None = None, *, hold: bool = False) -> argparse.Namespace:
    """`--json`, `--limit` where there is a default for it, and `--hold` where something can be left running."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    if limit is not None:
        parser.add_argument("--limit", type=int, default=limit, help=f"size of the sample ({limit})")
    if hold:
        parser.add_argument("--hold", action="store_true", help="start everything, show process ids, and let people type until Ctrl-C")
    return parser.parse_args()


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    info = Path("/proc/cpuinfo").read_text()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in info.splitlines())}
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }


def report(table: Table, figures: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the machine in one line, the table and, if asked for, everything as one JSON object on the last line."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    facts = machine()
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    console.print(f"{facts['cpu']}, {facts['cores']} cores, {' '.join(facts['flags'])}; {versions}", soft_wrap=True, highlight=False)
    console.print(table)
    if as_json:
        print(json.dumps({"machine": facts, **figures}))


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value, most often a ratio to a baseline of the same run, and, where something is promised of it, the bound."""

    name: str
    meaning: str
    value: float
    unit: str
    baseline: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def promise(self) -> str:
        """The bound in words."""
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        return "" if self.at_least is None else f"≥ {self.at_least:g}"

    @property
    def kept(self) -> bool | None:
        """Whether the value is within its bound; None without one."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least


def report_figures(title: str, figures: Sequence[Figure], *, as_json: bool) -> None:
    """One row for each figure, with its bound beside it."""
    table = Table("figure", "value", "unit", "baseline", "promise", "kept", title=title, title_justify="left")
    for figure in figures:
        kept = {None: "", True: "yes", False: "no"}[figure.kept]
        table.add_row(figure.meaning, f"{figure.value:.3g}", figure.unit, figure.baseline, figure.promise, kept)
    fields = ("value", "unit", "baseline", "promise", "kept")
    as_dicts = {figure.name: {each: getattr(figure, each) for each in fields} for figure in figures}
    report(table, {"figures": as_dicts}, as_json=as_json)
