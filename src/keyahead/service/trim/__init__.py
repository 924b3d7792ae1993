"""Trimming: what of a model's raw completion a person would accept. Pure functions over text, no I/O."""

from keyahead.service.trim.context import TrimContext
from keyahead.service.trim.languages import language_of
from keyahead.service.trim.opening import opens_block
from keyahead.service.trim.pipeline import is_finished, trim
from keyahead.service.trim.stops import find_stop

__all__ = ["TrimContext", "find_stop", "is_finished", "language_of", "opens_block", "trim"]
