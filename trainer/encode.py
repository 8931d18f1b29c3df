"""From a record to ids, labels and crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import ExifTags, Image
from torch import Tensor

from phi3v.schema import Conversation, UserError
from phi3v.schema.tokens import crop_tokens, image_pictures, image_tokens
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.model.processor import Phi3VProcessor
from phi3v.trainer.prompt import Segment, segments

Read = TypeVar("Read")
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
# What Pillow raises on bad files.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


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


Size = tuple[int, int]  # width and height of an image as stored, in pixels


class Texts(NamedTuple):
    """A record's length without its images.

    Attributes:
        tokens: ids of text, the BOS after each image included.
        labelled: ids that are learned.
        order: the numbers of the images in the order of their placeholders.
    """

    tokens: int
    labelled: int
    order: tuple[int, ...]


class Measured(NamedTuple):
    """A record's length before its pictures are decoded.

    Attributes:
        texts: ids of text, the BOS after each image included.
        labelled: ids that are learned.
        sizes: width and height of each image.
    """

    texts: int
    labelled: int
    sizes: tuple[tuple[int, int], ...]

    def tokens(self, num_crops: int) -> int:
        """Return the length of the encoded record.

        Raises:
            ValueError: an image is so thin that nothing is left of it at so few crops.
        """
        return self.texts + sum(image_tokens(*size, num_crops) for size in self.sizes)

    def pictures(self, num_crops: int) -> int:
        """Return what the vision tower sees of the record's images: crops and whole views."""
        return sum(image_pictures(*size, num_crops) for size in self.sizes)


class Encoder:
    """Encodes records as the original recipe does, with one end of text at the very end.

    Args:
        processor: its tokenizer and its image processor's `num_crops` count.
        image_root: where the images' paths start.
    """

    def __init__(self, processor: Phi3VProcessor, image_root: Path) -> None:
        self._processor = processor
        self._image_root = image_root

    @property
    def num_crops(self) -> int:
        """The most crops of an image."""
        return self._processor.image_processor.num_crops

    def __call__(self, record: Conversation, *, answered: bool = True, num_crops: int | None = None) -> Example:
        """Encode a record for training, or, with `answered` False, as the prompt for its last answer.

        A prompt's ids are those of training, cut before the last answer.

        Args:
            record: what to encode.
            answered: with its last answer.
            num_crops: instead of the processor's own.

        Raises:
            RecordError: the record breaks a rule of the contract.
            UserError: an image cannot be read, or has a shape that the model cannot take.
        """
        parts = segments(record, answered=answered)
        order = [part.image for part in parts if part.image]
        crops = [self._crops(record, number, num_crops) for number in order]
        images = {name: torch.cat([own[name] for own in crops]) for name in crops[0]} if crops else None
        counts = dict(zip(order, (crop_tokens(*own["image_sizes"][0].tolist()) for own in crops), strict=True))
        # Each chunk between images has a BOS of its own, as in the original processor.
        ids = [self._processor.tokenizer.bos_token_id]
        labels = [IGNORED]
        for part in parts:
            own = self._ids(part) if part.text else [-part.image] * counts[part.image] + ids[:1]
            ids += own
            labels += own if part.supervised else [IGNORED] * len(own)
        return Example(id=record.id, input_ids=ids, labels=labels, images=images, answers=record.turns[-1].accepted)

    def count_texts(self, records: Sequence[Conversation], *, answered: bool = True) -> Iterator[Texts]:
        """Yield how long the texts of records are, encoded as by `__call__`; no image is opened.

        Many at once take a fifth of the time: a call of the tokenizer costs as much as opening several pictures.

        Raises:
            RecordError: as `__call__`.
        """
        every = [segments(record, answered=answered) for record in records]
        texts = list(dict.fromkeys(part.text for parts in every for part in parts if part.text))
        found = self._processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        length = dict(zip(texts, map(len, found), strict=True))
        for parts in every:
            counts = [(length[part.text], part.supervised) for part in parts if part.text]
            order = tuple(part.image for part in parts if part.image)
            labelled = sum(count for count, supervised in counts if supervised)
            yield Texts(1 + sum(count for count, _ in counts) + len(order), labelled, order)

    def measure(
        self,
        record: Conversation,
        *,
        answered: bool = True,
        texts: Texts | None = None,
        sizes: Mapping[str, Size] | None = None,
    ) -> Measured:
        """Measure a record as `__call__` would encode it; of its images the headers are read, at most.

        Args:
            record: what to measure.
            answered: with its last answer.
            texts: what `count_texts` gave, if it is known already.
            sizes: of images that were opened already, by their paths in the record.

        Raises:
            RecordError, UserError: as `__call__`.
        """
        counted = texts or next(self.count_texts([record], answered=answered))
        known = {} if sizes is None or self._processor.image_processor.apply_exif_orientation else sizes
        found = tuple(self._size_of(record, number, known) for number in counted.order)
        return Measured(counted.tokens, counted.labelled, found)

    def _ids(self, part: Segment) -> list[int]:
        ids: list[int] = self._processor.tokenizer(part.text, add_special_tokens=False)["input_ids"]
        return ids

    def _crops(self, record: Conversation, number: int, num_crops: int | None) -> dict[str, Tensor]:
        """Return one image as `Phi3VImageProcessor.preprocess` gives it."""
        prepare = self._processor.image_processor.preprocess
        return self._opened(record, number, lambda image: dict(prepare(image, num_crops=num_crops)))

    def _size_of(self, record: Conversation, number: int, known: Mapping[str, Size]) -> Size:
        """Return the size of an image, counted from 1: as it is known, if the model takes it, else by opening it."""
        if size := known.get(record.images[number - 1]):
            with suppress(ValueError):  # opening it says which record it belongs to
                image_tokens(*size, self.num_crops)
                return size
        return self._opened(record, number, self._size)

    def _size(self, image: Image.Image) -> tuple[int, int]:
        """Return width and height as they will be cut; an error if the model takes no such shape."""
        processor = self._processor.image_processor
        turned = processor.apply_exif_orientation and image.getexif().get(ExifTags.Base.Orientation, 1) in TURNED
        size = image.size[::-1] if turned else image.size
        image_tokens(*size, self.num_crops)
        return size

    def _opened(self, record: Conversation, number: int, read: Callable[[Image.Image], Read]) -> Read:
        """Return what `read` makes of an image, counted from 1."""
        path = self._image_root / record.images[number - 1]
        try:
            with Image.open(path) as image:
                return read(image)
        except UNREADABLE as error:
            fix = "replace the file, or take the record out"
            raise UserError(f"cannot read this image of record {record.id!r} ({error})", where=path, fix=fix) from error
