"""Where a JSON Pointer's value stands in the text of a line.

Only failing lines are searched, so this favours being simple over being fast; it never recurses, so that no
depth of nesting can break it.
"""

from __future__ import annotations

import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed leaves it out; it is in every CPython

_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"[^\s,\]}]+")
_STRUCTURE = re.compile(r'["\[\]{}]')


def pointer_of(path: list[str | int] | tuple[str | int, ...]) -> str:
    """Return the JSON Pointer (RFC 6901) of a path of keys and indices."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def column_of(text: str, path: list[str | int] | tuple[str | int, ...]) -> int:
    """Return the 1-based column where the value at `path` starts.

    Where `path` leads to nothing, the column of the last value on the way: the object that lacks the key.

    Args:
        text: one valid JSON document.
        path: keys and indices from the root.
    """
    at = _blank(text, 0)
    for part in path:
        found = _child(text, at, part)
        if found is None:
            break
        at = found
    return at + 1


def _child(text: str, at: int, part: str | int) -> int | None:
    """Return where the member `part` of the container at `at` starts; with a key twice, the last, as parsers do."""
    if text[at] not in "{[":
        return None
    is_object = text[at] == "{"
    found = None
    index = 0
    at = _blank(text, at + 1)
    while text[at] not in "}]":
        name: str | int = index
        if is_object:
            name, at = scanstring(text, at + 1)
            at = _blank(text, _blank(text, at) + 1)  # over the colon
        if name == part:
            found = at
        index += 1
        at = _blank(text, _end(text, at))
        if text[at] == ",":
            at = _blank(text, at + 1)
    return found


def _end(text: str, at: int) -> int:
    """Return the position after the value that starts at `at`."""
    depth = 0
    while True:
        if text[at] == '"':
            at = scanstring(text, at + 1)[1]
        elif text[at] in "[{":
            depth, at = depth + 1, at + 1
        elif text[at] in "]}":
            depth, at = depth - 1, at + 1
        else:  # a scalar of its own; inside a container all that is between brackets and strings is skipped below
            at = _scalar_end(text, at)
        if depth == 0:
            return at
        match = _STRUCTURE.search(text, at)
        assert match is not None, "valid JSON closes what it opens"
        at = match.start()


def _scalar_end(text: str, at: int) -> int:
    match = _SCALAR.match(text, at)
    assert match is not None, "valid JSON has a value here"
    return match.end()


def _blank(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None, "the pattern matches the empty string"
    return match.end()
