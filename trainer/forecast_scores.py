"""What scoring takes of a GPU: the keys and values of all prompts that are answered at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from phi3v.trainer.model import Phi3VConfig
from phi3v.trainer.model.cache import ROOM
from phi3v.trainer.questions import Question, deal


class Answering(NamedTuple):
    """The largest batch of an evaluation.

    Attributes:
        rows: prompts.
        length: tokens of the longest, before its answer.
        keys: bytes of their keys and values, with the room that is made for the answers.
    """

    rows: int
    length: int
    keys: int

    @classmethod
    def of(
        cls,
        questions: Iterable[Question],
        shape: Phi3VConfig,
        dtype: torch.dtype,
        *,
        batch_size: int | None,
        processes: int,
        longest: int,
    ) -> Answering:
        """Return it of some questions.

        Args:
            questions: what is asked, at least one.
            shape: of the model.
            dtype: of the computation.
            batch_size: most prompts at a time; None for as many as `deal` takes.
            processes: how many share them.
            longest: most tokens of an answer.
        """
        asks = [ask.questions for own in deal(questions, batch_size, processes) for ask in own]
        rows, length = max(((len(own), own[0].tokens) for own in asks), key=lambda own: own[0] * own[1])
        heads = shape.num_key_value_heads or shape.num_attention_heads
        width = shape.hidden_size // shape.num_attention_heads
        # The cache begins with room beyond the prompt, and gets more where that is full.
        more = ROOM * -(-max(1, longest) // ROOM)
        keys = 2 * shape.num_hidden_layers * heads * width * dtype.itemsize * rows * (length + more)
        return cls(rows, length, keys)

    def that_fit(self, room: int) -> int:
        """Return how many such prompts have keys and values of so many bytes at most."""
        return max(0, room) * self.rows // self.keys
