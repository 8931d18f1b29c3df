"""What JSON Schema cannot say about a record: rules on a record that fits the schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from phi3v.schema.locate import Path
from phi3v.schema.tokens import CONTROL_TOKEN, IMAGE_TAG, tag_number


class Breach(NamedTuple):
    """A broken rule: its code, the path of the offending value in the record, what is wrong, a remedy of its own."""

    code: str
    path: Path
    message: str
    fix: str | None = None


def breaches(record: dict[str, Any]) -> Iterator[Breach]:
    """Yield what is wrong with one record that fits the schema."""
    yield from _missing_assistants(record)
    yield from _control_tokens(record)
    yield from _image_tags(record)


def _missing_assistants(record: dict[str, Any]) -> Iterator[Breach]:
    turns = record["conversations"]
    for index, turn in enumerate(turns[:-1]):
        if "assistant" not in turn:
            message = f"turn {index + 1} of {len(turns)} has no 'assistant'; only the last may be left open"
            yield Breach("missing-assistant", ("conversations", index), message)


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


def _image_tags(record: dict[str, Any]) -> Iterator[Breach]:
    turns = record["conversations"]
    expected = sum(len(turn.get("images", [])) for turn in turns)
    named = [
        (index, tag_number(tag[1])) for index, turn in enumerate(turns) for tag in IMAGE_TAG.finditer(turn["user"])
    ]
    seen: set[int] = set()
    for index, number in named:
        if not 1 <= number <= expected or number in seen:
            what = "stands twice" if number in seen else f"but the record has {expected} images"
            yield Breach("image-tag", ("conversations", index, "user"), f"'<|image_{number}|>' {what}")
        seen.add(number)
    if named and (absent := sorted(set(range(1, expected + 1)) - seen)):
        message = f"image {absent[0]} of {expected} has no tag, though others have one"
        yield Breach("image-tag", ("conversations", named[0][0], "user"), message)
