"""The executor's errors."""

from __future__ import annotations


class CppExecutorError(RuntimeError):
    """It is lost."""


class RequestError(RuntimeError):
    """One request is lost."""
