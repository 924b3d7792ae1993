"""What the engine says about cancels."""

from __future__ import annotations

from keyahead.loadtest import engine_page

PAGE = """# HELP keyahead_engine_cancelled_total Sequences cancelled.
keyahead_engine_cancelled_total{model="m",phase="decode"} 3
keyahead_engine_cancelled_total{model="m",phase="prefill"} 4
keyahead_engine_tokens_after_cancel_total{model="m"} 12
keyahead_engine_steps_total{model="m"} 99
"""


def test_phases_are_added_up() -> None:
    """Cancels in all phases, and nothing else; a page of an engine that has done nothing yet has none."""
    assert engine_page.parse(PAGE) == {"cancelled": 7, "tokens_after": 12}
    assert engine_page.parse("") == {"cancelled": 0, "tokens_after": 0}
    assert engine_page.grown({"cancelled": 5, "tokens_after": 12}, engine_page.parse(PAGE)) == {"cancelled": 2, "tokens_after": 0}
