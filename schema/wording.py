"""Findings of what is wrong with a line: its place in columns, its excerpt, its remedy."""

from __future__ import annotations

from phi3v.schema.findings import CODES, Excerpt, Finding
from phi3v.schema.locate import Columns, pointer_of
from phi3v.schema.rules import Breach
from phi3v.schema.syntax import BOM, Fault

_EXCERPT = 100  # characters of a line that are shown


class Wording:
    """Turns what is wrong with one line into findings.

    Args:
        file: as the user gave it.
        number: of the line, from 1.
        data: the line without its end; None if it is about the whole file.
    """

    def __init__(self, file: str, number: int, data: bytes | None) -> None:
        self._file = file
        self._number = number
        self._whole = data is None
        data = data or b""
        self._text = data.removeprefix(BOM).decode(errors="replace")  # as in editors, the mark is no column
        self._columns: Columns | None = None

    def of(self, breach: Breach) -> Finding:
        """Return the finding of a breach; the line is valid JSON."""
        self._columns = self._columns or Columns(self._text)
        column, end = breach.extent or self._columns.span(breach.path)
        fault = Fault(breach.code, column, end, breach.message, breach.fix)
        return self.of_fault(fault, pointer_of(breach.path))

    def of_fault(self, fault: Fault, pointer: str = "") -> Finding:
        """Return the finding of a fault."""
        return Finding(
            code=fault.code,
            file=self._file,
            line=self._number,
            column=fault.column,
            end_column=fault.end_column,
            pointer=pointer,
            message=fault.message,
            fix=fault.fix or CODES[fault.code].fix,
            excerpt=None if self._whole else excerpt(self._text, fault.column, fault.end_column),
        )


def excerpt(text: str, column: int, end_column: int) -> Excerpt:
    """Return what stands around a value: its start, and a quarter of the room before it."""
    start = max(0, column - 1 - _EXCERPT // 4)
    piece = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[start:][:_EXCERPT]
    )
    before, after = "..." * (start > 0), "..." * (len(text) > start + _EXCERPT)
    at = column - 1 - start
    length = 1 if text[column - 1 : column] in {"{", "["} else min(end_column - column, len(piece) - at)
    return Excerpt(before + piece + after, len(before) + at, max(1, length))
