"""Where the values of a line stand in its text.

One pass over the line gives every place, so that a record with thousands of findings costs no more than one with a
single finding. It never recurses, so that no depth of nesting can break it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed leaves it out; it is in every CPython

Path = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"[^\s,\]}]+")


def pointer_of(path: Sequence[str | int]) -> str:
    """Return the JSON Pointer (RFC 6901) of a path of keys and indices."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


class Columns:
    """The 1-based columns, in characters, between which the values of one JSON document stand.

    Args:
        text: valid JSON. Of a key that stands twice the last counts, as for parsers.

    Attributes:
        keys: the path of each value of an object, and the column of its key, from left to right.
    """

    def __init__(self, text: str) -> None:
        self.keys: list[tuple[Path, int]] = []
        self._starts: dict[Path, int] = {}
        self._ends: dict[Path, int] = {}
        self._scan(text)

    def of(self, path: Sequence[str | int]) -> int:
        """Return the column of the value at `path`; of the object that should hold it, if it is not there."""
        return self.span(path)[0]

    def span(self, path: Sequence[str | int]) -> tuple[int, int]:
        """Return the column of the value at `path` and the column after it.

        If it is not there: of the bracket that opens the object which should hold it.
        """
        parts = tuple(path)
        if parts in self._starts:
            return self._starts[parts], self._ends[parts]
        while parts not in self._starts:
            parts = parts[:-1]
        return self._starts[parts], self._starts[parts] + 1

    def _scan(self, text: str) -> None:
        path: list[str | int] = []  # of the value that comes next; a container adds a part to it
        at = _blank(text, 0)
        while True:
            self._starts[tuple(path)] = at + 1
            opened = text[at]
            end = _value_end(text, at)
            at = _blank(text, end)
            if opened in "[{" and text[at] not in "]}":
                at = self._member(text, at, path, "" if opened == "{" else -1)
                continue
            if opened in "[{":  # an empty container
                end = at + 1
                at = _blank(text, end)
            self._ends[tuple(path)] = end + 1
            while path and text[at] in "]}":
                path.pop()
                self._ends[tuple(path)] = at + 2
                at = _blank(text, at + 1)
            if not path:
                return
            last = path.pop()  # at a comma: the next member of the container
            at = self._member(text, _blank(text, at + 1), path, last)

    def _member(self, text: str, at: int, path: list[str | int], last: str | int) -> int:
        """Add the part of the member that starts at `at`; return where its value starts."""
        if isinstance(last, int):
            path.append(last + 1)
            return at
        name, end = scanstring(text, at + 1)
        path.append(name)
        self.keys.append((tuple(path), at + 1))
        return _blank(text, _blank(text, end) + 1)  # over the colon


def _value_end(text: str, at: int) -> int:
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
