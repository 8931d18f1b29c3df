"""Rows of CSV and TSV files by the line that they start in; a row that is broken costs itself."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phi3v.converters.annotations import Fault, Row, unreadable
from phi3v.converters.images import MAX_BYTES
from phi3v.schema import UserError

# Longest first: UTF-32's mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_delimited(path: Path, name: str, *, delimiter: str | None, encoding: str | None) -> Iterator[Row]:
    """Yield the rows, every cell a text as it stands there; blank lines are none.

    Args:
        path: the file; its first row names the columns.
        name: what rows call it: `name:17`.
        delimiter: one character; by the file's suffix if None: a tab for .tsv, else a comma.
        encoding: by a byte order mark if None, else UTF-8.

    Raises:
        UserError: it cannot be read or decoded, or its header is none.
    """
    with _opened(path, delimiter, encoding) as (header, reader):
        while (start := reader.line_num + 1) and (row := _next(reader, f"{name}:{start}", header)):
            if row.data or row.fault:
                yield row


def columns_of(path: Path, *, delimiter: str | None, encoding: str | None) -> list[str]:
    """Return the columns' names.

    Raises:
        UserError: as `read_delimited`.
    """
    with _opened(path, delimiter, encoding) as (header, _):
        return header


@contextmanager
def _opened(path: Path, delimiter: str | None, encoding: str | None) -> Iterator[tuple[list[str], Any]]:
    """Yield the header and the reader behind it; errors on the way name the file."""
    delimiter = delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    encoding = encoding or _encoding(path)
    try:
        with path.open(encoding=encoding, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            yield _header(path, reader, delimiter), reader
    except UnicodeDecodeError as error:
        raise _undecodable(path, encoding, error) from error
    except (LookupError, TypeError) as error:  # an encoding or a delimiter that there is not
        raise UserError(f"cannot read it ({error})", where=path, fix="check --encoding and --delimiter") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _encoding(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise unreadable(path, error) from error
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")


def _header(path: Path, reader: Iterator[list[str]], delimiter: str) -> list[str]:
    # Of the whole process; the default of 131,072 characters is a page of text or two.
    csv.field_size_limit(MAX_BYTES)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise UserError(f"the first line names no columns ({error})", where=f"{path}:1", fix="mend it") from error
    if not any(header):
        raise UserError("the first line names no columns", where=path, fix="put the columns' names there")
    if twice := {column for column in header if column and header.count(column) > 1}:
        what = f"two columns are called {min(twice)!r}"
        raise UserError(what, where=f"{path}:1", fix="rename one of them")
    if len(header) == 1 and (other := next((one for one in ";\t|," if one != delimiter and one in header[0]), None)):
        shown = "$'\\t'" if other == "\t" else f"'{other}'"
        raise UserError(f"one column called {header[0]!r:.80}", where=f"{path}:1", fix=f"give --delimiter {shown}")
    return header


def _next(reader: Iterator[list[str]], place: str, header: list[str]) -> Row | None:
    """Return the next row, without data if its line is blank; None at the end."""
    try:
        cells = next(reader, None)
    except csv.Error as error:
        what = f"no CSV ({error}): a quote inside a cell is written twice, and the cell in quotes"
        return Row(place, {}, Fault("not-csv", what))
    if cells is None:
        return None
    if cells and len(cells) != len(header):
        return Row(place, {}, Fault("ragged-row", f"{len(cells)} cells, and the header has {len(header)}"))
    return Row(place, dict(zip(header, cells, strict=False)) if cells else {})


def _undecodable(path: Path, encoding: str, error: UnicodeDecodeError) -> UserError:
    """Return the error with the line; a text file is decoded in pieces, so it is looked for again."""
    where, byte = str(path), error.object[error.start]
    if encoding.startswith("utf-8"):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as inner:
                    where, byte = f"{path}:{number}", line[inner.start]
                    break
    fix = "name its encoding, such as --encoding cp1252 (Windows) or latin-1"
    return UserError(f"byte {byte:#04x} is not {encoding}", where=where, fix=fix)
