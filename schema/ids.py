"""Ids that stand twice, among millions, in 70 bytes an id."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import orjson

from phi3v.schema.jsonl import read_block
from phi3v.schema.rules import Breach


class Place(NamedTuple):
    """A block of lines: its file, the 1-based number of its first line, its byte offset, how many lines."""

    path: Path
    number: int
    offset: int
    lines: int


class Ids:
    """Remembers in which block each id was first seen; the line is read again when it is asked for."""

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}  # by the id's hash: half the memory of the text, and whatever its length
        self._read_again: tuple[Place, dict[str, int]] | None = None

    def add(self, place: Place, ids: list[str | None]) -> Iterator[tuple[int, Breach]]:
        """Note a block's ids; yield those that were seen before, with their index in the block."""
        places, before = self._places, len(self._places)
        named: Sequence[str | None] = ids if None not in ids else [one for one in ids if one is not None]
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

    def _lines_of(self, place: Place) -> dict[str, int]:
        """Return the line numbers of a block's ids."""
        if self._read_again is None or self._read_again[0] != place:
            lines: dict[str, int] = {}
            for index, line in enumerate(read_block(place.path, place.offset, place.lines)):
                try:
                    lines.setdefault(orjson.loads(line)["id"], place.number + index)
                except (orjson.JSONDecodeError, KeyError, TypeError):  # no record
                    continue
            self._read_again = (place, lines)
        return self._read_again[1]
