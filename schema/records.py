"""The contract's records: turns and conversations, to and from one line of JSON.

A record here has the shape that the JSON Schema asks for: another cannot be made. Whether it obeys the rules beyond
the schema is for `check`, which says where it does not, and for the encoder, which refuses it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from phi3v.schema.keys import count_keys, may_repeat_keys, repeated_keys

# As in the schema: no empty part, no . and .., no backslash, no control character.
_IMAGE_PATH = re.compile(r"(?:(?!\.{1,2}/)[^/\\\x00-\x1f]+/)*(?!\.{1,2}\Z)[^/\\\x00-\x1f]+")


class RecordError(ValueError):
    """A record breaks the contract; the message says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One exchange.

    Attributes:
        user: what the user says; may hold the tags `<|image_N|>`.
        assistant: what the model must answer; None in a last turn that is only predicted.
        images: relative POSIX paths below the image root.
        answers: every answer that a scorer accepts; empty means `assistant` alone.

    Raises:
        RecordError: a text is empty, or a path is none.
    """

    user: str
    assistant: str | None = None
    images: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    @property
    def accepted(self) -> tuple[str, ...]:
        """What a scorer accepts; empty if the turn has no answer."""
        return self.answers or ((self.assistant,) if self.assistant is not None else ())

    def __post_init__(self) -> None:
        _texts_in({"user": self.user, "assistant": self.assistant}.items())
        _texts_in(("answers", answer) for answer in self.answers)
        for image in self.images:
            good = isinstance(image, str) and _IMAGE_PATH.fullmatch(image)
            _expect(good, f"{image!r:.80} is not a relative path below the image root")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One sample: `turns` is the JSON's `conversations`.

    Attributes:
        id: unique in the data set.
        source: the data set, which chooses the metric.
        turns: at least one, oldest first.
        system: text put before the first turn.
        metadata: anything JSON can hold; never shown to the model.

    Raises:
        RecordError: a text is empty, or there is no turn.
    """

    id: str
    source: str
    turns: tuple[Turn, ...]
    system: str | None = None
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _texts_in({"id": self.id, "source": self.source, "system": self.system}.items())
        _expect(self.turns, "'conversations' is a list of at least one turn")

    @property
    def images(self) -> tuple[str, ...]:
        """The images of all turns in order: tag `<|image_N|>` is number N of these, from 1."""
        return tuple(image for turn in self.turns for image in turn.images)

    @classmethod
    def from_line(cls, line: bytes | str) -> Conversation:
        """Read one line.

        Raises:
            RecordError: not JSON, or not of the contract's shape; the message says what.
        """
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise RecordError(f"not JSON ({error})") from error
        text = line if isinstance(line, str) else line.decode()
        if may_repeat_keys(text, count_keys(record)) and (repeated := repeated_keys(text)):
            raise RecordError(f"{repeated[0][0][-1]!r} stands twice in its object")
        _expect(isinstance(record, dict), "a record is an object")
        _only(record, {"id", "source", "system", "conversations", "metadata"}, {"id", "source", "conversations"})
        turns = record["conversations"]
        _expect(isinstance(turns, list), "'conversations' is a list of turns")
        _expect(isinstance(record.get("metadata", {}), dict), "'metadata' is an object")
        _expect("system" not in record or record["system"] is not None, "'system' is a text")
        return cls(
            id=record["id"],
            source=record["source"],
            system=record.get("system"),
            turns=tuple(_turn(turn) for turn in turns),
            metadata=record.get("metadata"),
        )

    def to_line(self) -> str:
        """Write the one byte form of the contract, LF included.

        Raises:
            RecordError: NaN or Infinity in `metadata`, or a lone surrogate in a text.
        """
        record = {
            "id": self.id,
            "source": self.source,
            "system": self.system,
            "conversations": [_turn_fields(turn) for turn in self.turns],
            "metadata": self.metadata,
        }
        present = {key: value for key, value in record.items() if value is not None}
        try:
            line = json.dumps(present, ensure_ascii=False, allow_nan=False) + "\n"
            line.encode()  # a lone surrogate has no UTF-8
        except ValueError as error:
            raise RecordError(f"record {self.id!r} cannot be written ({error})") from error
        return line


def _turn_fields(turn: Turn) -> dict[str, Any]:
    fields = {
        "images": list(turn.images) or None,
        "user": turn.user,
        "assistant": turn.assistant,
        "answers": list(turn.answers) or None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _turn(turn: object) -> Turn:
    _expect(isinstance(turn, dict), "a turn is an object")
    assert isinstance(turn, dict)
    _only(turn, {"images", "user", "assistant", "answers"}, {"user"})
    _expect("assistant" not in turn or turn["assistant"] is not None, "'assistant' is a text")
    _expect(turn.get("answers") != [], "'answers' is a list of at least one text")
    return Turn(
        user=turn["user"],
        assistant=turn.get("assistant"),
        images=_list(turn, "images"),
        answers=_list(turn, "answers"),
    )


def _list(turn: dict[str, Any], key: str) -> tuple[str, ...]:
    value = turn.get(key, [])
    _expect(isinstance(value, list), f"{key!r} is a list, not {value!r:.60}")
    return tuple(value)


def _texts_in(fields: Iterable[tuple[str, str | None]]) -> None:
    for name, value in fields:
        if name in {"assistant", "system"} and value is None:
            continue
        _expect(isinstance(value, str) and value, f"{name!r} is a text that is not empty, not {value!r:.60}")


def _only(record: dict[str, Any], known: set[str], required: set[str]) -> None:
    if missing := required - record.keys():
        raise RecordError(f"{min(missing)!r} is missing")
    if unknown := record.keys() - known:
        raise RecordError(f"{min(unknown)!r} is not a field of the contract; 'metadata' may hold it")


def _expect(condition: object, rule: str) -> None:
    if not condition:
        raise RecordError(rule)
