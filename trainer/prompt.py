"""From a record to the text that the model reads, in segments: prompt or answer, and images between them.

Source: the chat template of microsoft/Phi-3.5-vision-instruct and the original fine-tuning recipe's prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from phi3v.schema import Conversation, RecordError, Turn
from phi3v.schema.tokens import CONTROL_TOKEN, IMAGE_TAG, tag_number


class Segment(NamedTuple):
    """A stretch of text, or one image.

    Attributes:
        text: the text; empty for an image.
        image: the image's number in the record, from 1; 0 for a text.
        supervised: whether the model learns to write it.
    """

    text: str = ""
    image: int = 0
    supervised: bool = False


def segments(record: Conversation, *, answered: bool = True) -> list[Segment]:
    """Return a record as segments; texts of one kind that follow each other are one segment.

    Args:
        record: any record of the contract.
        answered: with the last answer, for training; without it the text ends where the model must answer.

    Raises:
        RecordError: an answer is missing, a text is blank or holds a control token, or the tags do not name each image
            once.
    """
    _refuse(record, answered=answered)
    merged: list[Segment] = []
    for segment in _pieces(record, answered=answered):
        if merged and not segment.image and not merged[-1].image and merged[-1].supervised == segment.supervised:
            merged[-1] = segment._replace(text=merged[-1].text + segment.text)
        else:
            merged.append(segment)
    return merged


def _pieces(record: Conversation, *, answered: bool) -> Iterator[Segment]:
    tagged = any(IMAGE_TAG.search(turn.user) for turn in record.turns)
    firsts = accumulate((len(turn.images) for turn in record.turns), initial=1)
    if record.system is not None:
        yield Segment(f"<|system|>\n{record.system}<|end|>\n")
    for number, (turn, first) in enumerate(zip(record.turns, firsts, strict=False), 1):
        yield Segment("<|user|>\n")
        yield from _tagged_text(turn.user) if tagged else _images_first(turn, first)
        yield Segment("<|end|>\n<|assistant|>\n")
        if answered or number < len(record.turns):
            yield Segment(f"{turn.assistant}<|end|>\n", supervised=True)
    if answered:
        yield Segment("<|endoftext|>", supervised=True)


def _tagged_text(user: str) -> Iterator[Segment]:
    for index, part in enumerate(IMAGE_TAG.split(user)):  # text, number, text, ... text
        if index % 2:
            yield Segment(image=tag_number(part))
        elif part:
            yield Segment(part)


def _images_first(turn: Turn, first: int) -> Iterator[Segment]:
    yield from (Segment(image=first + index) for index in range(len(turn.images)))
    yield Segment(f"\n{turn.user}" if turn.images else turn.user)


def _refuse(record: Conversation, *, answered: bool) -> None:
    for number, turn in enumerate(record.turns, 1):
        if turn.assistant is None and (answered or number < len(record.turns)):
            raise RecordError(f"turn {number} of record {record.id!r} has no 'assistant'")
        if not turn.user.strip() or (turn.assistant is not None and not turn.assistant.strip()):
            raise RecordError(f"turn {number} of record {record.id!r} has a text that is nothing but white space")
        untagged = [text for text in (record.system, turn.assistant, *turn.answers) if text is not None]
        tokens = [CONTROL_TOKEN.search(text) for text in (turn.user, *untagged)]
        tokens += [IMAGE_TAG.search(text) for text in untagged]
        if found := next(filter(None, tokens), None):
            raise RecordError(f"turn {number} of record {record.id!r} holds the control token {found[0]!r}")
    tags = [tag_number(tag[1]) for turn in record.turns for tag in IMAGE_TAG.finditer(turn.user)]
    if tags and sorted(tags) != list(range(1, len(record.images) + 1)):
        raise RecordError(
            f"record {record.id!r} tags the images {tags} and has {len(record.images)}: tag each once, or none"
        )
