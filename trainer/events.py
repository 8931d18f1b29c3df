"""What a run tells whoever started it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phi3v.trainer.scoring import Score


@dataclass(frozen=True, slots=True)
class Note:
    """Something to say about the run."""

    text: str


@dataclass(frozen=True, slots=True)
class Measured:
    """So many training records are measured."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Answered:
    """Evaluation has come so far."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Scored:
    """Evaluation is done.

    Attributes:
        when: `before`, `after`, `only` or `step-N`.
        scores: the one that counts first.
        loss: per token of the right answers.
        total: records answered.
        unread: records that were not, as an image cannot be read.
    """

    when: str
    scores: tuple[Score, ...]
    loss: float | None
    total: int
    unread: int = 0


@dataclass(frozen=True, slots=True)
class Stopped:
    """The run was asked to end; it goes on from a checkpoint."""

    checkpoint: Path


Event = Note | Measured | Answered | Scored | Stopped
