"""From logits to a token, as TensorRT-LLM's request parameters say."""

from __future__ import annotations

import numpy as np

from keyahead.engine.contract import Array, EngineRequest

Sampled = tuple[int, float | None]
"""A token and, if asked for, its log-probability."""


def sample(logits: Array, request: EngineRequest, position: int) -> Sampled:
    """Choose one token.

    Args:
        logits: FP32 [vocabulary].
        request: top_k 1 is greedy; else temperature, top_k, top_p and seed apply.
        position: of the token in the output; with the seed it makes the draw repeatable.

    """
    if request.embedding_bias is not None:
        logits = logits + request.embedding_bias
    token = int(np.argmax(logits)) if request.top_k == 1 else _draw(logits, request, position)
    return token, _log_prob(logits, token) if request.return_log_probs else None


def _log_prob(logits: Array, token: int) -> float:
    shifted = logits.astype(np.float64) - float(logits.max())
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


def _draw(logits: Array, request: EngineRequest, position: int) -> int:
    count = request.top_k if 0 < request.top_k < logits.size else logits.size
    best = np.argpartition(logits, -count)[-count:]
    best = best[np.argsort(-logits[best], kind="stable")]
    scaled = logits[best].astype(np.float64) / max(request.temperature, 1e-5)
    weights = np.exp(scaled - scaled[0])
    weights /= weights.sum()
    if 0 < request.top_p < 1:
        kept = int(np.searchsorted(np.cumsum(weights), request.top_p)) + 1
        best, weights = best[:kept], weights[:kept] / weights[:kept].sum()
    return int(np.random.default_rng((request.seed, position)).choice(best, p=weights))
