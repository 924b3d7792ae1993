"""Fits and checks the weights of `service/confidence.py`: how likely all of an answer is what is then typed.

Answers to the requests of simulated people (as `drafting.py` has them) are labelled by whether the person went on to type just that. One
half of the people gives the weights (logistic regression, Newton's method), the other shows how well they are calibrated.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from common import Engine, Figure, arguments, report_figures, running_engine
from drafting import TYPISTS, Typing, answer

from keyahead.engine.contract import Array
from keyahead.loadtest import texts
from keyahead.service import confidence
from keyahead.service.drafting.arbiter import Arbiter
from keyahead.service.drafting.ngrams import Answers
from keyahead.service.drafting.sources import Document, Source, Suggestions
from keyahead.service.extent import ENOUGH_TOKENS, first_lines, num_tokens

RIDGE = 1.0
"""Keeps the weights of rare features small."""
NEWTON_STEPS = 20
BINS = 5


def samples(engine: Engine, typist: int, limit: int) -> tuple[Array, Array]:
    """Features, with a column of ones, and labels of one person's answers."""
    person, arbiter, answers = Typing(texts.from_folder(), typist), Arbiter(), Answers()["typist"]
    rows: list[tuple[float, ...]] = []
    labels: list[bool] = []
    for query, truth in person.misses():
        if len(rows) >= limit:
            break
        drafts: list[Source] = [Suggestions("session", tuple(person.offered)), Document.of(query.suffix, (), "")]
        cost = answer(engine, query, drafts, answers, arbiter, f"typist {typist}")
        person.answered(query, cost.text)
        text = first_lines(cost.text, cost.ends, ENOUGH_TOKENS) or cost.text
        if text:
            rows.append((1.0, *confidence.features(cost.log_probs, num_tokens(text, cost.ends), text.count("\n"))))
            labels.append(truth.startswith(text))
    return np.array(rows), np.array(labels, dtype=float)


def fit(x: Array, y: Array) -> Array:
    """Weights of a logistic regression."""
    weights = np.zeros(x.shape[1])
    for _ in range(NEWTON_STEPS):
        p = predict(x, weights)
        hessian = x.T @ (x * (p * (1 - p))[:, None]) + RIDGE * np.eye(x.shape[1])
        weights += np.linalg.solve(hessian, x.T @ (y - p) - RIDGE * weights)
    return weights


def predict(x: Array, weights: Array) -> Array:
    """Probabilities."""
    result: Array = 1 / (1 + np.exp(-(x @ weights)))
    return result


def calibration(p: Array, y: Array) -> list[Figure]:
    """What was predicted beside what happened, in bins of equal size; the Brier score beside that of always saying the mean."""
    order = np.argsort(p)
    figures = []
    for number, part in enumerate(np.array_split(order, BINS)):
        meaning = f"taken, fifth {number + 1} by p_accept ({len(part)} answers)"
        figures.append(Figure(f"bin_{number}", meaning, float(y[part].mean()), "", f"predicted {p[part].mean():.2f}"))
    score, plain = float(((p - y) ** 2).mean()), float(y.mean() * (1 - y.mean()))
    return [*figures, Figure("brier", "Brier score", score, "", f"of the mean alone: {plain:.3f}", at_most=plain)]


def main() -> None:
    options = arguments(__doc__, limit=400)
    with running_engine() as engine:
        people = [samples(engine, typist, options.limit // TYPISTS) for typist in range(TYPISTS)]
    half = len(people) // 2
    x, y = (np.concatenate(parts) for parts in zip(*people[:half], strict=True))
    other_x, other_y = (np.concatenate(parts) for parts in zip(*people[half:], strict=True))
    weights = fit(x, y)
    kept = np.array([confidence.INTERCEPT, confidence.MEAN_LOG_PROB, confidence.LOG_TOKENS, confidence.LINES])
    print(f"weights fitted now: {', '.join(f'{weight:.2f}' for weight in weights)} (intercept, mean log-probability, log tokens, lines)")
    print(f"mean log-probability: {x[:, 1].mean():.2f}; kept weights: {kept.tolist()}")
    report_figures(Path(__file__).stem, calibration(predict(other_x, kept), other_y), as_json=options.json)


if __name__ == "__main__":
    main()
