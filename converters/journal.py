"""What a run has done so far: one line an item, written before the item's images take their names.

A run that is killed goes on from here: a line cut short is dropped, the images of the last whole line are put in place
if the kill came in between, and every other item is either here with its images, or to be done again.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import orjson

from phi3v.schema import Conversation, UserError
from phi3v.schema.jsonl import atomic_write, read_lines


class Stored(NamedTuple):
    """A file by its name (relative, POSIX), its size and its SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """An item that became a record.

    Attributes:
        index: its place in the plan.
        split, source: as the item has them.
        line: the record's line, with its line feed.
        label: its class, if it has one.
        images: what it brought into `images/`.
        sources: what it was made from; the names below `src_dir`.
        notes: what somebody should know of it.
        staged: the folder in which its images wait until its line is in the journal.
    """

    index: int
    split: str
    source: str
    line: str
    label: str | None = None
    images: tuple[Stored, ...] = ()
    sources: tuple[Stored, ...] = ()
    notes: tuple[str, ...] = ()
    staged: str = ""

    @property
    def record(self) -> Conversation:
        """The record that was written."""
        return Conversation.from_line(self.line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An item that failed.

    Attributes:
        index, split, source: as in `Converted`.
        reason: a short name under which failures are counted.
        error: the exception's class.
        what, where, fix: what was wrong, in which file, and what to do about it.
        trace: the traceback, where the failure looks like a bug.
    """

    index: int
    split: str
    source: str
    reason: str
    error: str
    what: str
    where: str | None = None
    fix: str | None = None
    trace: str | None = None

    @property
    def message(self) -> str:
        """What the ledger says."""
        return str(UserError(self.what, where=self.where, fix=self.fix))


Entry = Converted | Rejected


class Journal:
    """The journal in a folder: `journal`, which grows, and `kept`, what an earlier run left in order.

    Both are in the order of the plan, except that a kill between two steps of `keep` leaves an item in both.
    """

    def __init__(self, folder: Path) -> None:
        self._kept = folder / "kept"
        self._path = folder / "journal"
        self._drop_cut_line()
        self._file = self._path.open("ab", buffering=0)

    def append(self, entry: Entry) -> None:
        """Write an item's line; it survives a kill from here on."""
        line = _line(entry)
        if self._file.write(line) != len(line):
            raise OSError(28, os.strerror(28))  # a full disk takes a part

    def entries(self) -> Iterator[Entry]:
        """Yield what is done at the time of the call, in the order of the plan."""
        ends = [(path, path.stat().st_size) for path in (self._kept, self._path) if path.exists()]
        merged = heapq.merge(*(_read(path, end) for path, end in ends), key=attrgetter("index"))
        return (next(group) for _, group in groupby(merged, key=attrgetter("index")))

    def last(self) -> Entry | None:
        """Return the line that was written last."""
        entry = None
        for entry in _read(self._path, self._path.stat().st_size):  # noqa: B007  # its value after the loop
            pass
        return entry

    def keep(self, wanted: Callable[[Entry], bool]) -> None:
        """Forget the entries that are not wanted, so that their items are done again."""
        if all(wanted(entry) for entry in self.entries()):
            return
        with atomic_write(self._kept) as file:
            file.writelines(_line(entry) for entry in self.entries() if wanted(entry))
        self._file.truncate(0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _drop_cut_line(self) -> None:
        if self._path.exists():
            with self._path.open("rb") as file:
                whole = sum(len(line) for line in file if line.endswith(b"\n"))
            os.truncate(self._path, whole)


def _line(entry: Entry) -> bytes:
    return orjson.dumps(entry, default=list) + b"\n"  # default: orjson leaves named tuples to us


def _read(path: Path, end: int) -> Iterator[Entry]:
    for line in read_lines(path):
        if line.offset >= end:
            return
        fields = orjson.loads(line.data)
        if "line" not in fields:
            yield Rejected(**fields)
            continue
        stored = {key: tuple(Stored(*value) for value in fields[key]) for key in ("images", "sources")}
        yield Converted(**{**fields, **stored, "notes": tuple(fields["notes"])})
