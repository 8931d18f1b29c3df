"""What JSON Schema cannot say about a record: rules on a record that fits the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from phi3v.schema.locate import Extent, Path
from phi3v.schema.tokens import CONTROL_TOKEN, IMAGE_TAG, tag_number

CLASS_LIST = re.compile(r"one of the following [^:\n]{1,40}: ?([^\n]+)")
CLASS_LIST_START = "one of the following "
LONGEST_QUOTE = 60  # characters of a value that a message quotes


class Breach(NamedTuple):
    """A broken rule.

    Attributes:
        code: a key of `CODES`.
        path: the offending value's in the record.
        message: what is wrong.
        fix: a remedy of its own; the code's if None.
        extent: where it stands, if that is not where the value at the path does.
    """

    code: str
    path: Path
    message: str
    fix: str | None = None
    extent: Extent | None = None


def breaches(record: dict[str, Any]) -> Iterator[Breach]:
    """Yield what is wrong with one record that fits the schema."""
    yield from _missing_assistants(record)
    yield from _blank_texts(record)
    yield from _control_tokens(record)
    yield from image_tags(record)


def doubts(record: dict[str, Any]) -> Iterator[Breach]:
    """Yield what is allowed in a record that fits the schema, and hardly meant."""
    for index, turn in enumerate(record["conversations"]):
        answer = turn.get("assistant")
        if answer is not None and not is_listed(turn["user"], answer):
            message = f"{answer!r:.80} is none of the classes that the question lists"
            if near := [name for name in listed_classes(turn["user"]) if name.casefold() == answer.strip().casefold()]:
                message += f"; {near[0]!r} is"
            yield Breach("answer-not-listed", ("conversations", index, "assistant"), message)


def quote(value: object) -> str:
    """Return a value as a message shows it: as JSON, and not too long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "..."


def count_noun(count: int, noun: str) -> str:
    """Return a number with its noun: 1 record, 2 records."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed_classes(question: str) -> list[str]:
    """Return the classes of a question with 'one of the following ...: A, B, or C.' in it, or none.

    A sentence may follow in the same line; a class with a full stop and a blank inside is cut there.
    """
    found = CLASS_LIST.search(question) if CLASS_LIST_START in question else None
    listed = found[1].partition(". ")[0].strip().removesuffix(".") if found else ""
    names = [name.strip().removeprefix("or ").removeprefix("and ") for name in listed.split(",")]
    return names if len(names) > 1 else []


def is_listed(question: str, answer: str) -> bool:
    """Return whether an answer is one of the classes that its question lists, if it lists any."""
    names = listed_classes(question)
    return not names or answer in names


def _missing_assistants(record: dict[str, Any]) -> Iterator[Breach]:
    turns = record["conversations"]
    for index, turn in enumerate(turns[:-1]):
        if "assistant" not in turn:
            message = f"turn {index + 1} of {len(turns)} has no 'assistant'; only the last may be left open"
            yield Breach("missing-assistant", ("conversations", index), message)


def _blank_texts(record: dict[str, Any]) -> Iterator[Breach]:
    for index, turn in enumerate(record["conversations"]):
        for key in ("user", "assistant"):
            if key in turn and not turn[key].strip():
                yield Breach(
                    "blank-text", ("conversations", index, key), f"{turn[key]!r:.40} is nothing but white space"
                )


def _texts(record: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    if "system" in record:
        yield ("system",), record["system"]
    for index, turn in enumerate(record["conversations"]):
        for key in ("user", "assistant"):
            if key in turn:
                yield ("conversations", index, key), turn[key]
        for number, answer in enumerate(turn.get("answers", [])):
            yield ("conversations", index, "answers", number), answer


def _control_tokens(record: dict[str, Any]) -> Iterator[Breach]:
    for path, text in _texts(record):
        found = CONTROL_TOKEN.search(text)
        if found is None and path[-1] != "user":
            found = IMAGE_TAG.search(text)
        if found is not None:
            yield Breach("control-token", path, f"{found[0]!r} at character {found.start() + 1} of the text")


def image_tags(record: dict[str, Any]) -> Iterator[Breach]:
    """Yield where the tags in `user` do not name each image of the record once, if there is any."""
    turns = record["conversations"]
    expected = sum(len(turn.get("images", [])) for turn in turns)
    named = [
        (index, tag_number(tag[1])) for index, turn in enumerate(turns) for tag in IMAGE_TAG.finditer(turn["user"])
    ]
    seen: set[int] = set()
    for index, number in named:
        if not 1 <= number <= expected or number in seen:
            what = "stands twice" if number in seen else f"but the record has {count_noun(expected, 'image')}"
            yield Breach("image-tag", ("conversations", index, "user"), f"'<|image_{number}|>' {what}")
        seen.add(number)
    if named and (absent := sorted(set(range(1, expected + 1)) - seen)):
        message = f"image {absent[0]} of {expected} has no tag, though others have one"
        yield Breach("image-tag", ("conversations", named[0][0], "user"), message)
