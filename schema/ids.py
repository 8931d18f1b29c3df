"""Ids that stand twice, among millions: no memory to speak of if they ascend, else 70 bytes an id."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from operator import lt
from pathlib import Path
from typing import NamedTuple

import orjson

from phi3v.schema.contract import fits_schema
from phi3v.schema.jsonl import read_block
from phi3v.schema.rules import Breach
from phi3v.schema.syntax import BOM


class Place(NamedTuple):
    """A block of lines: its file, the 1-based number of its first line, its byte offset, how many lines."""

    path: Path
    number: int
    offset: int
    lines: int


class Ids:
    """Remembers in which block each id was first seen; the line is read again when it is asked for.

    As long as each id is greater than the one before, none can stand twice, and only the blocks are remembered.
    """

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}  # by the id's hash: half the memory of the text, and whatever its length
        self._ascending: list[Place] | None = []
        self._greatest = ""
        self._read_again: tuple[Place, dict[str, int]] | None = None

    def add(self, place: Place, ids: list[str | None]) -> Iterator[tuple[int, Breach]]:
        """Note a block's ids; yield those that were seen before, with their index in the block."""
        named: Sequence[str] = [one for one in ids if one is not None]
        if self._ascend(place, named):
            return
        places, before = self._places, len(self._places)
        deque(map(places.setdefault, map(hash, named), repeat(place)), maxlen=0)
        if len(places) == before + len(named):
            return
        here: dict[str, int] = {}
        for index, one in enumerate(ids):
            if one is None:
                continue
            first = places[hash(one)]
            # The line is looked up, so that two ids with one hash are no duplicates.
            line = (self._lines_of(first).get(one) if first != place else None) or here.get(one)
            if line is not None:
                where = f"line {line}" + (f" of {first.path}" if first.path != place.path else "")
                yield index, Breach("duplicate-id", ("id",), f"id {one!r:.80} is also on {where}")
            here.setdefault(one, place.number + index)

    def _ascend(self, place: Place, named: Sequence[str]) -> bool:
        """Return whether all ids so far ascend; with the first that doesn't, all are read again and remembered."""
        if self._ascending is None:
            return False
        if not named:
            return True
        if self._greatest < named[0] and all(map(lt, named, islice(named, 1, None))):
            self._greatest = named[-1]
            self._ascending.append(place)
            return True
        for earlier in self._ascending:
            self._places.update(dict.fromkeys(map(hash, self._lines_of(earlier)), earlier))
        self._ascending = None
        return False

    def _lines_of(self, place: Place) -> dict[str, int]:
        """Return the line numbers of the ids of a block's records."""
        if self._read_again is None or self._read_again[0] != place:
            lines: dict[str, int] = {}
            for index, line in enumerate(read_block(place.path, place.offset, place.lines)):
                try:
                    record = orjson.loads(line.removeprefix(BOM))
                except orjson.JSONDecodeError:
                    continue
                if fits_schema(record):
                    lines.setdefault(record["id"], place.number + index)
            self._read_again = (place, lines)
        return self._read_again[1]
