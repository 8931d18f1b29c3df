"""A processor where there is no tokenizer: it counts the most tokens that a text can have.

Source: the byte bound of `phi3v.schema.lengths`.
"""

from __future__ import annotations

from typing import cast

from phi3v.schema import UserError
from phi3v.schema.tokens import CONTROL_TOKEN
from phi3v.trainer.load import NO_FOLDER, load_processor
from phi3v.trainer.model import Phi3VImageProcessor, Phi3VProcessor

LONGEST = 131_072  # what the released tokenizers take


class MostTokens:
    """Counts tokens as a tokenizer does, but every byte for one, and one at the start of each text between controls."""

    bos_token_id = pad_token_id = 1
    model_max_length = LONGEST

    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, list[range]]:  # noqa: ARG002
        """Return as many ids for each text as there can be at most."""
        return {"input_ids": [range(most_tokens(text)) for text in texts]}


def most_tokens(text: str) -> int:
    """Return the most tokens that a text can have, control tokens among them."""
    parts = CONTROL_TOKEN.split(text)
    return len(parts) - 1 + sum(len(part.encode()) + 1 for part in parts if part)


class BoundProcessor:
    """What an `Encoder` measures with."""

    def __init__(self) -> None:
        self.tokenizer = MostTokens()
        self.image_processor = Phi3VImageProcessor()


def find_processor(name: str) -> tuple[Phi3VProcessor, bool]:
    """Return the processor of a model and True, or one that counts bounds and False where it has no tokenizer at hand.

    Raises:
        UserError: there is no such folder.
    """
    try:
        return load_processor(name), True
    except UserError as error:
        if error.what == NO_FOLDER:
            raise
        return cast("Phi3VProcessor", BoundProcessor()), False
