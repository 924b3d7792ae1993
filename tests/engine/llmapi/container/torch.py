"""As much of PyTorch as `engine/llmapi/runtime.py` needs."""

from __future__ import annotations

from typing import Any

import numpy as np

float32 = np.float32


class Tensor:
    """Numbers that are not numpy's."""

    def __init__(self, values: Any) -> None:
        self.values = values


def tensor(values: Any, dtype: type[np.generic]) -> Tensor:
    """A copy."""
    return Tensor(np.array(values, dtype))
