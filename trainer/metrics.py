"""Scores, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence


def normalise(answer: str) -> str:
    """Return an answer without surrounding space, trailing full stops and case.

    Source: the original recipe's evaluation of UCF-101, Hateful Memes and NLVR2.
    """
    return answer.strip().rstrip(".").lower()


def is_correct(prediction: str, answers: Sequence[str]) -> bool:
    """Return whether a prediction equals one of the accepted answers, both normalised."""
    return normalise(prediction) in {normalise(answer) for answer in answers}
