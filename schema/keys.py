"""Keys that stand twice in one object, which every parser passes over."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs

from phi3v.schema.locate import Columns, Extent, Path

# A blank between a key and its colon: in such a line `":` does not count the keys.
_PARTED = jsonschema_rs.Draft202012Validator(
    {"pattern": r'"[ \t\r]+:'}, pattern_options=jsonschema_rs.RegexOptions()
).is_valid


def count_keys(value: Any) -> int:
    """Return how many keys all the objects in a parsed value have."""
    keys, rest = 0, [value]
    while rest:  # no recursion: a parser takes more levels than Python has frames
        inner = rest.pop()
        if isinstance(inner, dict):
            keys += len(inner)
            rest.extend(inner.values())
        elif isinstance(inner, list):
            rest.extend(inner)
    return keys


def may_repeat_keys(text: str, keys: int) -> bool:
    """Return False only if no object of some JSON documents names a key twice.

    Every key is followed by `":`, unless there is a blank between; a parser keeps one key of several alike. So equal
    numbers mean that none was dropped. They also differ if a string begins with a colon, or holds a quote before one.

    Args:
        text: one or more documents.
        keys: how many keys a parser kept.
    """
    return text.count('":') != keys or _PARTED(text)


class _RepeatedError(Exception):
    """An object names a key twice."""


def repeated_keys(text: str) -> list[tuple[Path, Extent]]:
    """Return the path of each key that stood before in its object, and where the later one stands.

    Args:
        text: one valid JSON document.
    """
    try:  # mostly there is none, which the parser can tell ten times as fast as the map of columns
        json.loads(text, object_pairs_hook=_refuse_repeated)
    except (_RepeatedError, ValueError, RecursionError):  # ValueError: a number of thousands of digits
        return Columns(text).repeated
    return []


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _RepeatedError
