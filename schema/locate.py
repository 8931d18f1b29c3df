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
    """The 1-based columns, in characters, at which the values of one JSON document start.

    Args:
        text: valid JSON. Of a key that stands twice the last counts, as for parsers.
    """

    def __init__(self, text: str) -> None:
        self._columns: dict[Path, int] = {}
        self._scan(text)

    def of(self, path: Sequence[str | int]) -> int:
        """Return the column of the value at `path`; of the object that should hold it, if it is not there."""
        parts = tuple(path)
        while parts not in self._columns:
            parts = parts[:-1]
        return self._columns[parts]

    def _scan(self, text: str) -> None:
        path: list[str | int] = []  # of the value that comes next; a container adds a part to it
        at = _blank(text, 0)
        while True:
            self._columns[tuple(path)] = at + 1
            opened = text[at]
            at = _value_end(text, at)
            if opened in "[{" and text[at] not in "]}":
                at = _member(text, at, path, "" if opened == "{" else -1)
                continue
            if opened in "[{":  # an empty container
                at = _blank(text, at + 1)
            while path and text[at] in "]}":
                path.pop()
                at = _blank(text, at + 1)
            if not path:
                return
            last = path.pop()  # at a comma: the next member of the container
            at = _member(text, _blank(text, at + 1), path, last)


def _member(text: str, at: int, path: list[str | int], last: str | int) -> int:
    """Add the part of the member that starts at `at`; return where its value starts."""
    if isinstance(last, int):
        path.append(last + 1)
        return at
    name, at = scanstring(text, at + 1)
    path.append(name)
    return _blank(text, _blank(text, at) + 1)  # over the colon


def _value_end(text: str, at: int) -> int:
    """Return where the text goes on, past blanks: after a scalar, or inside a container."""
    if text[at] == '"':
        end: int = scanstring(text, at + 1)[1]
    elif text[at] in "[{":
        end = at + 1
    else:
        match = _SCALAR.match(text, at)
        assert match is not None, "valid JSON has a value here"
        end = match.end()
    return _blank(text, end)


def _blank(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None, "the pattern matches the empty string"
    return match.end()
