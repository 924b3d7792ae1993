"""Which prompt layout answers best and survives typing: the design's comparison, on cursor positions in the standard library.

A position has 48 lines before it and 12 after; the rest of its line is asked for, greedily. The four layouts are prefix-suffix-middle and
suffix-middle-prefix, each as it is and healed: its last token taken back, and the first new one made to begin with that token's text.
"""

from __future__ import annotations

import os
import random
import statistics
from dataclasses import dataclass
from typing import Any

from common import SEED, Engine, arguments, library, report, running_engine
from rich.table import Table

from keyahead.service.prompt import Prompt, take_back

LINES_BEFORE, LINES_AFTER = 48, 12
KEYS = 10


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor position, and what really stands between it and the end of its line."""

    prefix: str
    rest: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to put a position into tokens."""

    name: str
    suffix_first: bool
    healed: bool

    def prompt(self, engine: Engine, place: Place) -> Prompt:
        """The prompt of a position; the suffix begins with the line break behind the cursor."""
        fim = engine.model.fim
        assert fim is not None
        before, after, middle = map(engine.tokenizer.control, (fim.prefix, fim.suffix, fim.middle))
        prefix, suffix = engine.tokenizer.encode(place.prefix), engine.tokenizer.encode(place.suffix)
        healed = b""
        if self.healed:
            prefix, healed, _ = take_back(engine.tokenizer, prefix)
        if self.suffix_first:
            return Prompt((before, after, *suffix, middle, *prefix), healed)
        return Prompt((before, *prefix, after, *suffix, middle), healed)


LAYOUTS = (
    Layout("prefix, suffix, middle", suffix_first=False, healed=False),
    Layout("prefix, suffix, middle, healed", suffix_first=False, healed=True),
    Layout("suffix, middle, prefix", suffix_first=True, healed=False),
    Layout("suffix, middle, prefix, healed", suffix_first=True, healed=True),
)


def places(count: int) -> list[Place]:
    """Random positions inside lines of random modules, with at least two characters of text to come."""
    chance = random.Random(SEED)  # noqa: S311 - a sample, not a secret
    modules = library()
    found: list[Place] = []
    while len(found) < count:
        lines = chance.choice(modules).read_text().split("\n")
        number = chance.randrange(len(lines))
        line = lines[number]
        indent = len(line) - len(line.lstrip())
        column = chance.randrange(indent, len(line)) if len(line) > indent else 0
        if len(line[column:].strip()) >= 2:
            before = [*lines[max(0, number - LINES_BEFORE) : number], line[:column]]
            after = ["", *lines[number + 1 : number + 1 + LINES_AFTER]]
            found.append(Place("\n".join(before), line[column:], "\n".join(after)))
    return found


def answer(engine: Engine, layout: Layout, place: Place) -> str:
    """The rest of the line, as the model has it."""
    prompt = layout.prompt(engine, place)
    pieces = b"".join(map(engine.tokenizer.token_bytes, engine.line(prompt)))
    return pieces[len(prompt.healed) :].decode("utf-8", "replace").partition("\n")[0]


def prefilled_by_typing(engine: Engine, layout: Layout, place: Place) -> list[int]:
    """Prompt tokens computed for each of the next characters, by the engine's counter."""
    counters = engine.loop.counters
    engine.line(layout.prompt(engine, place), layout.name, max_tokens=2)
    computed = []
    for typed in range(1, KEYS + 1):
        before = counters.prefill_tokens
        now = Place(place.prefix + place.rest[:typed], place.rest[typed:], place.suffix)
        engine.line(layout.prompt(engine, now), layout.name, max_tokens=2)
        computed.append(counters.prefill_tokens - before)
    return computed


def judge(layout: Layout, sample: list[Place], answers: list[str], keys: list[int]) -> dict[str, Any]:
    """The figures of one layout."""
    pairs = list(zip(answers, sample, strict=True))
    return {
        "layout": layout.name,
        "useful_characters": statistics.mean(len(os.path.commonprefix([text, place.rest])) for text, place in pairs),  # noqa: RUF071
        "exact_lines": sum(text.rstrip() == place.rest.rstrip() for text, place in pairs),
        "prefilled_per_key_mean": statistics.mean(keys),
        "prefilled_per_key_max": max(keys),
    }


def main() -> None:
    options = arguments(__doc__, limit=60)
    sample = places(options.limit)
    typed = next(place for place in places(50) if len(place.rest) > KEYS)
    with running_engine() as engine:
        keys = [prefilled_by_typing(engine, layout, typed) for layout in LAYOUTS]
        # All layouts of a position in a row, so that those which begin alike share its KV before it is evicted.
        answers = [[answer(engine, layout, place) for layout in LAYOUTS] for place in sample]
    results = [judge(layout, sample, [each[i] for each in answers], keys[i]) for i, layout in enumerate(LAYOUTS)]
    columns = ("useful characters", f"exact lines of {len(sample)}", "tokens computed a key, mean", "most")
    table = Table("layout", *columns, title="Prompt layouts", title_justify="left")
    for each in results:
        tokens = (f"{each['prefilled_per_key_mean']:.1f}", str(each["prefilled_per_key_max"]))
        table.add_row(each["layout"], f"{each['useful_characters']:.1f}", str(each["exact_lines"]), *tokens)
    report(table, {"places": len(sample), "layouts": results}, as_json=options.json)


if __name__ == "__main__":
    main()
