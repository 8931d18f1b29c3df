"""Scores, as pure functions of answers: each names where its formula is from.

What is covered: accuracy, exact match, ANLS in two variants, the area under the ROC curve, consistency, a confusion
table, and bootstrap intervals.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

THRESHOLD = 0.5  # of ANLS: an answer with half of its characters wrong, or more, counts nothing
RESAMPLES = 1000
TAILS = (0.025, 0.975)  # of a 95 % interval


def normalise(answer: str) -> str:
    """Return an answer without surrounding space, trailing full stops and case.

    Source: the original recipe's evaluation of UCF-101, Hateful Memes and NLVR2.
    """
    return answer.strip().rstrip(".").lower()


def is_correct(prediction: str, answers: Sequence[str]) -> bool:
    """Return whether a prediction equals one of the accepted answers, both normalised."""
    return normalise(prediction) in {normalise(answer) for answer in answers}


def is_exact(prediction: str, answers: Sequence[str]) -> bool:
    """Return whether a prediction is one of the accepted answers to the letter, surrounding space apart."""
    return prediction.strip() in {answer.strip() for answer in answers}


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Return the normalised Levenshtein similarity of a prediction to the nearest accepted answer, 0 to 1.

    Case and runs of space are not counted. The mean over questions is the ANLS that papers publish.

    Source: Biten et al., Scene Text Visual Question Answering (ICCV 2019), equation 1, with the normalisation of the
    Robust Reading Competition's challenge 17. Its script divides by the length before normalisation and keeps a
    similarity of exactly 0.5; the paper, and this, do neither.
    """
    return _nearest(_flat(prediction), [_flat(answer) for answer in answers])


def anls_recipe(prediction: str, answers: Sequence[str]) -> float:
    """Return the same as the original recipe counts it, where case counts.

    Of the prediction, surrounding space and then trailing full stops are taken off, of the answers nothing.

    Source: the original recipe's evaluation of DocVQA.
    """
    return _nearest(prediction.strip().rstrip("."), answers)


def _flat(text: str) -> str:
    return " ".join(text.lower().split())


def _nearest(prediction: str, answers: Sequence[str]) -> float:
    return max(_similarity(prediction, answer) for answer in answers)


def _similarity(prediction: str, answer: str) -> float:
    length = max(len(prediction), len(answer))
    distance = Levenshtein.distance(prediction, answer) / length if length else 0.0
    return 1 - distance if distance < THRESHOLD else 0.0


def auroc(scores: Sequence[float] | NDArray[Any], positive: Sequence[bool] | NDArray[Any]) -> float:
    """Return the chance that a positive sample has a higher score than a negative one, ties counted half.

    NaN where one of the two kinds is missing.

    Source: the Mann-Whitney U statistic divided by the number of pairs.
    """
    kinds = np.asarray(positive, dtype=bool)
    _, inverse, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above, below = int(kinds.sum()), int((~kinds).sum())
    if not above or not below:
        return float("nan")
    return float((ranks[kinds].sum() - above * (above + 1) / 2) / (above * below))


def whole_groups(correct: Iterable[bool], groups: Iterable[Hashable]) -> list[bool]:
    """Return for each group, in order of appearance, whether all its members are correct.

    The share of such groups is NLVR2's consistency, a group being all pairs of pictures of one sentence.

    Source: Suhr et al., A Corpus for Reasoning About Natural Language Grounded in Photographs (ACL 2019), section 5.
    """
    found: dict[Hashable, bool] = defaultdict(lambda: True)
    for right, group in zip(correct, groups, strict=True):
        found[group] = found[group] and right
    return list(found.values())


def confusion(pairs: Iterable[tuple[str, str]], *, other: str) -> dict[str, Counter[str]]:
    """Return, for each class, how often each class was predicted for it.

    Args:
        pairs: the right answer and the prediction of each sample; compared normalised.
        other: the name under which a prediction goes that is no right answer of any sample.

    Returns:
        by right answer and prediction, both as the data spell them first; the classes in order of their names.
    """
    read = list(pairs)
    spelled: dict[str, str] = {}
    for answer, _ in read:
        spelled.setdefault(normalise(answer), answer)
    table: dict[str, Counter[str]] = {name: Counter() for name in sorted(spelled.values())}
    for answer, prediction in read:
        table[spelled[normalise(answer)]][spelled.get(normalise(prediction), other)] += 1
    return table


def mean_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean."""
    array = np.asarray(values, dtype=float)
    return bootstrap(len(array), lambda chosen: float(array[chosen].mean()), seed=seed)


def auroc_interval(scores: Sequence[float], positive: Sequence[bool], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the area under the ROC curve."""
    values, kinds = np.asarray(scores), np.asarray(positive, dtype=bool)
    return bootstrap(len(values), lambda chosen: auroc(values[chosen], kinds[chosen]), seed=seed)


def bootstrap(count: int, statistic: Callable[[NDArray[np.intp]], float], *, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic over samples drawn with replacement.

    Args:
        count: of samples, at least one.
        statistic: of the samples whose numbers it is given; a NaN is left out.
        seed: of the draws: the same data have the same interval.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    generator = np.random.default_rng(seed)
    values = [statistic(generator.integers(count, size=count)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(values, TAILS)
    return float(low), float(high)
