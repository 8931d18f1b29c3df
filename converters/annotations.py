"""Annotation files: each row with its place, and errors that name place, field and value.

JSON lines (whatever the file is called), a list of objects, or an object whose `data` is that list. A row that cannot
be read keeps its place in the order, and costs itself alone.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from phi3v.converters.base import SourceError
from phi3v.schema import UserError
from phi3v.schema.jsonl import read_lines
from phi3v.schema.syntax import BOM, file_fault, line_fault

MEND = "mend this row; --on_error skip goes on without it"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row cannot become a record, as `SourceError` has it; `where` if it is another place than the row."""

    reason: str
    what: str
    fix: str = MEND
    where: str | None = None

    @classmethod
    def of(cls, error: SourceError) -> Fault:
        """Return what an error says, to be raised when the item's turn comes."""
        return cls(error.reason, error.what, error.fix or MEND, None if error.where is None else str(error.where))

    def error(self, place: str) -> SourceError:
        """Return it as an error again; `place` is where it is, unless it knows better."""
        return SourceError(self.reason, self.what, where=self.where or place, fix=self.fix)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of annotations.

    Attributes:
        place: `train.jsonl:17`, or `val_v1.0.json:data[3]`.
        data: its fields; empty if there is a fault.
        fault: what is wrong with it as a whole.
    """

    place: str
    data: dict[str, Any]
    fault: Fault | None = None

    def check(self) -> None:
        """Raise what is wrong with the row as a whole."""
        if self.fault:
            raise self.fault.error(self.place)

    def with_fault(self, error: SourceError) -> Row:
        """Return the row as one that cannot be used; an earlier fault stays."""
        return self if self.fault else replace(self, fault=Fault.of(error))

    def wrong(self, key: str, wanted: str) -> SourceError:
        """Return the error of a field."""
        found = f"not {self.data[key]!r:.80}" if key in self.data else "and is missing"
        return SourceError("wrong-field", f"{key!r} is {wanted}, {found}", where=self.place, fix=MEND)

    def text(self, key: str) -> str:
        """Return a field that must be a text, not blank."""
        value = self.data.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, "a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a field that is a list of texts, blanks left out; empty if it is absent or null."""
        value = self.data.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.wrong(key, "a list of texts")
        return tuple(one for one in value if one.strip())


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON document of rows, and what stands beside them."""

    head: dict[str, Any]
    rows: list[Row]


def refuse_again(seen: dict[Any, str], key: Any, row: Row, words: str) -> None:
    """Raise if an earlier row had this key; else note it.

    Args:
        seen: key -> the place of its row.
        key: what must be one row's alone.
        row: that has it now.
        words: for it.
    """
    first = seen.setdefault(key, row.place)
    if first != row.place:
        what = f"{words} is also that of {first}"
        raise SourceError("duplicate-question", what, where=row.place, fix="remove one of the two")


def read_document(path: Path, name: str) -> Document:
    """Read a list of objects, or an object whose `data` is one.

    Args:
        path: the file.
        name: what rows call it.

    Raises:
        UserError: it cannot be read, is not JSON (line and column are named), or is of another shape.
    """
    text = _read(path).removeprefix(BOM)
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise UserError(f"not JSON ({error.msg})", where=where, fix="fetch the file again, or mend it") from error
    head = content if isinstance(content, dict) else {}
    items = head.get("data") if isinstance(content, dict) else content
    if not isinstance(items, list):
        shown = f"an object with {', '.join(map(repr, list(head)[:5])) or 'nothing'}" if head else f"{content!r:.40}"
        what = f"{shown}, not a list of questions, nor an object whose 'data' is one"
        raise UserError(what, where=path, fix="point at the annotation file")
    part = f"{name}:data" if isinstance(content, dict) else f"{name}:"
    rows = [_row(f"{part}[{index}]", item) for index, item in enumerate(items)]
    return Document({key: value for key, value in head.items() if key != "data"}, rows)


def read_json_lines(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows of a JSON lines file, or of one that is a list of objects; blank lines count, and are no rows.

    Args:
        path: the file.
        name: what rows call it.

    Raises:
        UserError: it cannot be read, or is no JSON lines at all.
    """
    start = _first_line(path)
    if start.removeprefix(BOM).lstrip().startswith(b"["):
        yield from read_document(path, name).rows
        return
    if fault := file_fault(path, start):
        raise UserError(fault.message, where=path, fix=fault.fix)
    for line in read_lines(path):
        data = line.data.removeprefix(BOM) if line.number == 1 else line.data
        place = f"{name}:{line.number}"
        if not data.strip():
            continue
        try:
            content = orjson.loads(data)
        except orjson.JSONDecodeError:
            found = line_fault(data)
            yield Row(f"{place}:{found.column}", {}, Fault("not-json", found.message))
            continue
        yield _row(place, content)


def _row(place: str, content: object) -> Row:
    if isinstance(content, dict):
        return Row(place, content)
    return Row(place, {}, Fault("wrong-shape", f"a row is an object, not {content!r:.60}"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def _first_line(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.readline(1 << 20)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error of an annotation file that is not there, or may not be read."""
    what = "no such annotation file" if error.errno == errno.ENOENT else f"cannot read it ({error.strerror})"
    near = sorted(one.name for one in path.parent.glob(f"*{path.suffix}"))
    fix = f"choose one that is there: {', '.join(near[:8])}" if near else "point --src_dir at the unpacked data"
    return UserError(what, where=path, fix=fix)
