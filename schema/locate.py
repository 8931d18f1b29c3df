"""Where the values of a line stand in its text.

One pass over the line gives every place, so that a record with thousands of findings costs no more than one with a
single finding. It never recurses, and no path is kept: no depth of nesting can exhaust the stack or the memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed leaves it out; it is in every CPython
from typing import NamedTuple

Path = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"[^\s,\]}]+")


def pointer_of(path: Sequence[str | int]) -> str:
    """Return the JSON Pointer (RFC 6901) of a path of keys and indices."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


class Extent(NamedTuple):
    """A column, from 1 and in characters, and the column after the last."""

    column: int
    end: int


_NONE: dict[str | int, _Value] = {}  # of scalars, which are many: never added to


class _Value:
    """Where a value starts and ends in the text, from 0; the members of a list or an object by index or key."""

    __slots__ = ("end", "members", "name", "start")

    def __init__(self, name: str | int, start: int) -> None:
        self.name = name
        self.start = start
        self.end = start
        self.members = _NONE


class Columns:
    """The 1-based columns, in characters, between which the values of one JSON document stand.

    Args:
        text: valid JSON. Of a key that stands twice the last counts, as for parsers.

    Attributes:
        repeated: the path of each key that stood before in its object, and where that key stands, from left to right.
    """

    def __init__(self, text: str) -> None:
        self.repeated: list[tuple[Path, Extent]] = []
        self._document = self._scan(text)

    def span(self, path: Sequence[str | int]) -> Extent:
        """Return where the value at `path` stands.

        If it is not there: of the bracket that opens the object which should hold it.
        """
        value = self._document
        for part in path:
            if part not in value.members:
                return Extent(value.start + 1, value.start + 2)
            value = value.members[part]
        return Extent(value.start + 1, value.end + 1)

    def _scan(self, text: str) -> _Value:
        value = document = _Value("", _blank(text, 0))
        containers: list[_Value] = []  # that are open at `at`, outermost first
        while True:
            value.end = _head_end(text, value.start)  # a container's is set where it closes
            if text[value.start] in "[{":
                value.members = {}
                containers.append(value)
            at = _blank(text, value.end)
            while containers and text[at] in "]}":
                containers.pop().end = at + 1
                at = _blank(text, at + 1)
            if not containers:
                return document
            if text[at] == ",":
                at = _blank(text, at + 1)
            value = self._member(text, at, containers)

    def _member(self, text: str, at: int, containers: list[_Value]) -> _Value:
        """Add the member that starts at `at`, with its key if it has one, to the innermost container."""
        members = containers[-1].members
        if text[containers[-1].start] == "[":
            value = members[len(members)] = _Value(len(members), at)
            return value
        name, end = scanstring(text, at + 1)
        if name in members:
            path = (*(outer.name for outer in containers[1:]), name)
            self.repeated.append((path, Extent(at + 1, end + 1)))
        value = members[name] = _Value(name, _blank(text, _blank(text, end) + 1))  # + 1: over the colon
        return value


def _head_end(text: str, at: int) -> int:
    """Return where a scalar ends, or the inside of a container begins."""
    if text[at] == '"':
        end: int = scanstring(text, at + 1)[1]
    elif text[at] in "[{":
        end = at + 1
    else:
        match = _SCALAR.match(text, at)
        assert match is not None, "valid JSON has a value here"
        end = match.end()
    return end


def _blank(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None, "the pattern matches the empty string"
    return match.end()
