"""Make every record fit before the run: with fewer crops, then fewer turns; else it is skipped with its reason.

Pictures are looked at by their headers only. A cut never goes through an image.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, NamedTuple

from phi3v.schema import Conversation, UserError
from phi3v.schema.tokens import IMAGE_TAG, tag_number
from phi3v.trainer.data import Policy, Records
from phi3v.trainer.encode import Encoder, Example, Size, Texts
from phi3v.trainer.packing import Sizes

_AT_ONCE = 256  # records whose texts go through the tokenizer in one call


class Fit(NamedTuple):
    """How a record goes into the model.

    Attributes:
        tokens: all of them.
        labelled: those it learns.
        num_crops: the most crops of an image.
        dropped_turns: the oldest turns, left out.
        texts: tokens that are not an image's.
        pictures: what the vision tower sees, crops and whole views.
    """

    tokens: int
    labelled: int
    num_crops: int
    dropped_turns: int = 0
    texts: int = 0
    pictures: int = 0


class Skipped(NamedTuple):
    """Why a record is left out: a stable code, and the reason in words."""

    code: Literal["too-long", "image"]
    reason: str


def fit(
    record: Conversation,
    encoder: Encoder,
    max_length: int,
    *,
    texts: Texts | None = None,
    sizes: Mapping[str, Size] | None = None,
) -> Fit | Skipped:
    """Return how a record fits: with fewer crops, then without its oldest turns and their images, or why not at all.

    Args:
        record: what shall fit.
        encoder: measures it.
        max_length: most tokens.
        texts: what is known of the whole record's, as `Encoder.measure` takes it.
        sizes: what is known of its images', likewise.

    Raises:
        UserError: the header of an image cannot be read.
    """
    for dropped in range(len(record.turns)):
        shorter = without_oldest(record, dropped)
        measured = encoder.measure(shorter, texts=None if dropped else texts, sizes=sizes)
        for num_crops in range(encoder.num_crops, 0, -1):
            with suppress(ValueError):  # so thin an image that nothing is left of it at so few crops
                least = measured.tokens(num_crops)
                if least <= max_length:
                    pictures = measured.pictures(num_crops)
                    return Fit(least, measured.labelled, num_crops, dropped, measured.texts, pictures)
    return Skipped("too-long", f"{least} tokens with one turn and the fewest crops; the limit is {max_length}")


def encode(record: Conversation, encoder: Encoder, how: Fit, *, answered: bool = True) -> Example:
    """Encode a record, as it fits, for training or, with `answered` False, as the prompt for its last answer.

    Raises:
        RecordError, UserError: as the encoder.
    """
    return encoder(without_oldest(record, how.dropped_turns), answered=answered, num_crops=how.num_crops)


def without_oldest(record: Conversation, count: int) -> Conversation:
    """Return a record without its first turns and the images that only they show; the tags left count from 1 again."""
    if not count:
        return record
    kept = record.turns[count:]
    if not any(IMAGE_TAG.search(turn.user) for turn in record.turns):
        return replace(record, turns=kept)
    shown = sorted(tag_number(tag[1]) for turn in kept for tag in IMAGE_TAG.finditer(turn.user))
    number = {old: new for new, old in enumerate(shown, 1)}
    # A tag may stand in another turn than the one that brings its image: all go with the first turn left.
    images = tuple(record.images[old - 1] for old in shown)
    turns = (
        replace(
            turn,
            user=IMAGE_TAG.sub(lambda tag: f"<|image_{number[tag_number(tag[1])]}|>", turn.user),
            images=images if position == 0 else (),
        )
        for position, turn in enumerate(kept)
    )
    return replace(record, turns=tuple(turns))


@dataclass(slots=True)
class Fits:
    """How each of N records fits: 19 bytes a record in memory.

    Attributes:
        tokens, labelled, num_crops, dropped_turns, texts, pictures: as in `Fit`; all 0 for a record that is skipped.
        skipped: why, by the record's number.
    """

    tokens: array[int] = field(default_factory=lambda: array("I"))
    labelled: array[int] = field(default_factory=lambda: array("I"))
    num_crops: array[int] = field(default_factory=lambda: array("B"))
    dropped_turns: array[int] = field(default_factory=lambda: array("H"))
    texts: array[int] = field(default_factory=lambda: array("I"))
    pictures: array[int] = field(default_factory=lambda: array("I"))
    skipped: dict[int, Skipped] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, number: int) -> Fit:
        return Fit(*(column[number] for column in self._columns))

    @property
    def _columns(self) -> tuple[array[int], ...]:
        """One column a field of `Fit`."""
        return self.tokens, self.labelled, self.num_crops, self.dropped_turns, self.texts, self.pictures

    @property
    def sizes(self) -> Sizes:
        """What the division of a step goes by."""
        return Sizes(self.tokens, self.pictures)

    @property
    def kept(self) -> list[int]:
        """The numbers of the records that fit."""
        return [number for number in range(len(self)) if number not in self.skipped]

    def append(self, how: Fit) -> None:
        """Add the next record; of one that is skipped, a fit of zeros."""
        for column, value in zip(self._columns, how, strict=True):
            column.append(value)

    def digest(self) -> str:
        """Return the SHA-256 of all of it: it changes when a picture gets another size."""
        columns = (*self._columns, array("Q", self.skipped))
        return hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()

    def measure(
        self,
        records: Records,
        encoder: Encoder,
        *,
        max_length: int,
        on_error: Policy,
        sizes: Mapping[str, Size] | None = None,
    ) -> Iterator[int]:
        """Measure records one by one, yielding how many are done.

        Args:
            records: all of them.
            encoder: measures them.
            max_length: most tokens of one.
            on_error: whether an image that cannot be read ends it, or leaves its record out.
            sizes: of images that were opened already.

        Raises:
            UserError: the header of an image cannot be read, and `on_error` is `fail`.
        """
        reading = iter(records)
        while block := list(islice(reading, _AT_ONCE)):
            for record, texts in zip(block, encoder.count_texts(block), strict=True):
                try:
                    result = fit(record, encoder, max_length, texts=texts, sizes=sizes)
                except UserError as error:
                    if on_error == "fail":
                        raise
                    result = Skipped("image", str(error).splitlines()[0])
                if isinstance(result, Skipped):
                    self.skipped[len(self)] = result
                    result = Fit(0, 0, 0)
                self.append(result)
                yield len(self)
