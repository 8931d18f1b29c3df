"""From a record to ids, labels and crops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from phi3v.schema import Conversation, UserError
from phi3v.schema.tokens import crop_tokens
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.model.processor import Phi3VProcessor
from phi3v.trainer.prompt import segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One encoded record.

    Attributes:
        id: the record's.
        input_ids: T ids; a token of image N is -N.
        labels: T ids, `IGNORED` where nothing is learned; all of them in a prompt.
        images: `pixel_values`, `crop_counts`, `image_sizes` in the order of the placeholders; None without images.
        answers: what a scorer accepts for the last turn; empty if it has no answer.
    """

    id: str
    input_ids: list[int]
    labels: list[int]
    images: dict[str, Tensor] | None
    answers: tuple[str, ...]


class Encoder:
    """Encodes records as the original recipe does, with one end of text at the very end.

    Args:
        processor: its tokenizer and its image processor's `num_crops` count.
        image_root: where the images' paths start.
    """

    def __init__(self, processor: Phi3VProcessor, image_root: Path) -> None:
        self._processor = processor
        self._image_root = image_root

    def __call__(self, record: Conversation, *, answered: bool = True) -> Example:
        """Encode a record for training, or, with `answered` False, as the prompt for its last answer.

        A prompt's ids are those of training, cut before the last answer.

        Raises:
            RecordError: the record breaks a rule of the contract.
            UserError: an image cannot be read, or has a shape that the model cannot take.
        """
        parts = segments(record, answered=answered)
        order = [part.image for part in parts if part.image]
        crops = [self._crops(record.images[number - 1], record.id) for number in order]
        images = {name: torch.cat([own[name] for own in crops]) for name in crops[0]} if crops else None
        counts = dict(zip(order, (crop_tokens(*own["image_sizes"][0].tolist()) for own in crops), strict=True))
        # Each chunk between images has a BOS of its own, as in the original processor.
        ids = [self._processor.tokenizer.bos_token_id]
        labels = [IGNORED]
        for part in parts:
            if part.image:
                own = [-part.image] * counts[part.image] + [self._processor.tokenizer.bos_token_id]
            else:
                own = self._processor.tokenizer(part.text, add_special_tokens=False)["input_ids"]
            ids += own
            labels += own if part.supervised else [IGNORED] * len(own)
        last = record.turns[-1]
        answers = last.answers or ((last.assistant,) if last.assistant is not None else ())
        return Example(id=record.id, input_ids=ids, labels=labels, images=images, answers=answers)

    def _crops(self, name: str, record_id: str) -> dict[str, Tensor]:
        """Return one image as `Phi3VImageProcessor.preprocess` gives it."""
        path = self._image_root / name
        try:
            with Image.open(path) as image:
                return dict(self._processor.image_processor.preprocess(image))
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:  # what Pillow raises on bad files
            fix = "replace the file, or take the record out"
            raise UserError(f"cannot read this image of record {record_id!r} ({error})", where=path, fix=fix) from error
