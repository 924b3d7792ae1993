"""Exact match on single-line infilling tasks: openvino_genai alone with the plain layout, and our prompt, engine and trimming.

The plain pipeline is scored twice: its answer as it comes, and the answer's first line. Ours is asked twice: with the task's suffix as it
is, where the text behind the hole seems to stand on the cursor's own line, and with a line break put before it, as an editor has it where
the cursor's line is empty and the next line follows.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import LINE_TOKENS, SEED, Engine, Genai, arguments, report, running_engine
from rich.table import Table

from keyahead.cli.infilling import Task, is_exact, load, sample, useful_characters
from keyahead.service.decoding import Decoding
from keyahead.service.model import Query
from keyahead.service.trim import TrimContext

TASKS = Path(__file__).parents[1] / "data" / "infilling" / "dev.jsonl"


def plain(engine: Engine, genai: Genai, task: Task) -> str:
    """The plain layout's answer, up to any end token or as many tokens as ours may have."""
    fim, tokenizer = engine.model.fim, engine.tokenizer
    assert fim is not None
    before, after, middle = map(tokenizer.control, (fim.prefix, fim.suffix, fim.middle))
    ids = [before, *tokenizer.encode(task.prompt), after, *tokenizer.encode(task.suffix), middle]
    return tokenizer.decode(genai.greedy(ids, LINE_TOKENS, engine.ends))


def ours(engine: Engine, task: Task, suffix: str) -> str:
    """What the service answers to a request for a single line."""
    prompt = engine.builder.build(Query(prefix=task.prompt, suffix=suffix))
    context = TrimContext(task.prompt, suffix, "python", multiline=False, complete=True)
    decoding = Decoding(engine.tokenizer, prompt.healed, context, LINE_TOKENS)
    decoding.feed(engine.line(prompt))
    decoding.end()
    return decoding.suggestion()


def editors_suffix(task: Task) -> str:
    """The suffix behind the hole's own line break."""
    return "\n" + task.suffix if task.canonical_solution.endswith("\n") else task.suffix


def answers(engine: Engine, genai: Genai, task: Task) -> dict[str, str]:
    """Every way's answer to one task."""
    raw = plain(engine, genai, task)
    ways: dict[str, Callable[[], str]] = {
        "openvino_genai alone, plain layout": lambda: raw,
        "the same, first line": lambda: raw.partition("\n")[0],
        "keyahead, suffix as it is": lambda: ours(engine, task, task.suffix),
        "keyahead, line break before the suffix": lambda: ours(engine, task, editors_suffix(task)),
    }
    return {name: way() for name, way in ways.items()}


def judge(way: str, tasks: list[Task], given: list[dict[str, str]]) -> dict[str, Any]:
    """The figures of one way, and how it fares against the first line of the plain pipeline, task by task."""
    exact = [is_exact(task, each[way]) for task, each in zip(tasks, given, strict=True)]
    baseline = [is_exact(task, each["the same, first line"]) for task, each in zip(tasks, given, strict=True)]
    return {
        "way": way,
        "exact": sum(exact),
        "gained": sum(mine and not theirs for mine, theirs in zip(exact, baseline, strict=True)),
        "lost": sum(theirs and not mine for mine, theirs in zip(exact, baseline, strict=True)),
        "useful_characters": statistics.mean(useful_characters(task, each[way]) for task, each in zip(tasks, given, strict=True)),
    }


def main() -> None:
    options = arguments(__doc__, limit=60)
    tasks = sample([task for task in load(TASKS) if task.single_line], options.limit, SEED)
    with running_engine() as engine:
        genai = Genai(engine.model)
        given = [answers(engine, genai, task) for task in tasks]
    results = [judge(way, tasks, given) for way in given[0]]
    columns = (f"exact of {len(tasks)}", "gained", "lost", "useful characters")
    table = Table("way", *columns, title="Single-line infilling", title_justify="left")
    for each in results:
        table.add_row(each["way"], *(str(each[key]) for key in ("exact", "gained", "lost")), f"{each['useful_characters']:.1f}")
    report(table, {"tasks": len(tasks), "ways": results}, as_json=options.json)


if __name__ == "__main__":
    main()
