"""The few commands the cache needs, and how groups of them go into one message and come out of its replies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Command = tuple[str | bytes | int, ...]
"""The command's name, its key if it has one, its arguments."""
Group = Sequence[Command]
"""Commands about one key that belong together: one alone, or a transaction."""


def transaction(commands: Group) -> Group:
    """The commands as one step for everybody else."""
    return (("MULTI",), *commands, ("EXEC",))


def key_of(group: Group) -> str | bytes | int:
    """The key that a group is about."""
    return next(command[1] for command in group if len(command) > 1)


def queue(pipeline: Any, groups: Sequence[Group], **target: Any) -> None:
    """Put all groups into a pipeline of redis-py."""
    for group in groups:
        for command in group:
            pipeline.execute_command(*command, **target)


def outcomes(groups: Sequence[Group], replies: Iterable[Any]) -> list[Any]:
    """For each group its last reply or, if there was one, its first error."""
    rest = iter(replies)
    return [_outcome([next(rest) for _ in group]) for group in groups]


def _outcome(replies: list[Any]) -> Any:
    last = replies[-1]
    inner = last if isinstance(last, list) else []  # EXEC answers for each command of its transaction
    return next((reply for reply in (*replies, *inner) if isinstance(reply, Exception)), last)
