"""Records as columns of numbers: small in JSON, and free of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from keyahead.loadtest.judge import Outcome, Record, Typed

Columns = dict[str, Any]
_DECIMALS = 6
"""Of seconds: microseconds."""


def from_records(records: Sequence[Record]) -> Columns:
    """One list for each field; the stages are one list each, with 0 where a stage was not run."""
    names = [field.name for field in fields(Record) if field.name != "stages_ms"]
    columns: Columns = {name: [_plain(getattr(record, name)) for record in records] for name in names}
    stages = sorted({stage for record in records for stage in record.stages_ms})
    columns["stages_ms"] = {stage: [round(record.stages_ms.get(stage, 0.0), 3) for record in records] for stage in stages}
    return columns


def to_records(columns: Columns) -> list[Record]:
    """The records again."""
    stages = columns["stages_ms"]
    names = [name for name in columns if name != "stages_ms"]
    rows = zip(*(columns[name] for name in names), strict=True)
    records = []
    for number, row in enumerate(rows):
        values = dict(zip(names, row, strict=True))
        values["outcome"] = Outcome(values["outcome"])
        records.append(Record(**values, stages_ms={stage: values_of[number] for stage, values_of in stages.items() if values_of[number]}))
    return records


def from_typed(typed: Sequence[Typed]) -> Columns:
    """One list for each field."""
    return {field.name: [_plain(getattr(key, field.name)) for key in typed] for field in fields(Typed)}


def to_typed(columns: Columns) -> list[Typed]:
    """The keys again."""
    return [Typed(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DECIMALS)
    return int(value) if isinstance(value, bool) else value
