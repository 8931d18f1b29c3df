"""The contract's records: turns and conversations, to and from one line of JSON.

A record here is well-formed JSON of the right shape; whether it obeys every rule of the contract is for
`check` (which says where it does not) and for the encoder (which refuses it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One exchange.

    Attributes:
        user: what the user says; may hold the tags `<|image_N|>`.
        assistant: what the model must answer; None in a last turn that is only predicted.
        images: relative POSIX paths below the image root.
        answers: every answer that a scorer accepts; empty means `assistant` alone.
    """

    user: str
    assistant: str | None = None
    images: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One sample: `turns` is the JSON's `conversations`.

    Attributes:
        id: unique in the data set.
        source: the data set, which chooses the metric.
        turns: at least one, oldest first.
        system: text put before the first turn.
        metadata: anything JSON can hold; never shown to the model.
    """

    id: str
    source: str
    turns: tuple[Turn, ...]
    system: str | None = None
    metadata: Mapping[str, Any] | None = None

    @property
    def images(self) -> tuple[str, ...]:
        """The images of all turns in order: tag `<|image_N|>` is number N of these, from 1."""
        return tuple(image for turn in self.turns for image in turn.images)

    @classmethod
    def from_line(cls, line: bytes | str) -> Conversation:
        """Read one line.

        Raises:
            ValueError: not JSON, or not of the contract's shape; the message says what.
        """
        record = orjson.loads(line)
        _expect(isinstance(record, dict), "a record is an object")
        _only(record, {"id", "source", "system", "conversations", "metadata"}, {"id", "source", "conversations"})
        turns = record["conversations"]
        _expect(isinstance(turns, list) and turns, "'conversations' is a list of at least one turn")
        _expect(isinstance(record.get("metadata", {}), dict), "'metadata' is an object")
        return cls(
            id=_text(record, "id"),
            source=_text(record, "source"),
            system=_text(record, "system") if "system" in record else None,
            turns=tuple(_turn(turn) for turn in turns),
            metadata=record.get("metadata"),
        )

    def to_line(self) -> str:
        """Write the one byte form of the contract, LF included.

        Raises:
            ValueError: NaN or Infinity in `metadata`, or a lone surrogate in a text.
        """
        record = {
            "id": self.id,
            "source": self.source,
            "system": self.system,
            "conversations": [_turn_fields(turn) for turn in self.turns],
            "metadata": self.metadata,
        }
        present = {key: value for key, value in record.items() if value is not None}
        line = json.dumps(present, ensure_ascii=False, allow_nan=False) + "\n"
        line.encode()  # UnicodeEncodeError is a ValueError: a lone surrogate has no UTF-8
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
    return Turn(
        user=_text(turn, "user"),
        assistant=_text(turn, "assistant") if "assistant" in turn else None,
        images=_texts(turn, "images"),
        answers=_texts(turn, "answers"),
    )


def _text(record: dict[str, Any], key: str) -> str:
    value = record[key]
    _expect(isinstance(value, str) and value, f"{key!r} is a text that is not empty, not {value!r:.60}")
    return str(value)


def _texts(turn: dict[str, Any], key: str) -> tuple[str, ...]:
    value = turn.get(key, [])
    good = isinstance(value, list) and all(isinstance(part, str) and part for part in value)
    _expect(good, f"{key!r} is a list of texts, not {value!r:.60}")
    return tuple(value)


def _only(record: dict[str, Any], known: set[str], required: set[str]) -> None:
    if missing := required - record.keys():
        raise ValueError(f"{min(missing)!r} is missing")
    if unknown := record.keys() - known:
        raise ValueError(f"{min(unknown)!r} is not a field of the contract; 'metadata' may hold it")


def _expect(condition: object, rule: str) -> None:
    if not condition:
        raise ValueError(rule)
