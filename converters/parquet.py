"""Rows of Parquet files, streamed: a few at a time, and only the columns that are asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from phi3v.converters.annotations import Row
from phi3v.schema import UserError
from phi3v.schema.errors import first_line

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BATCH = 16  # rows in memory at a time: scanned pages weigh a megabyte each


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files below a folder, or the one that it is, in name order."""
    if folder.is_file():
        return [folder] if folder.suffix == ".parquet" else []
    return sorted(path for path in folder.rglob("*.parquet") if path.is_file())


def columns_of(path: Path) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        UserError: no Parquet file.
    """
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def read_parquet(path: Path, name: str, columns: Collection[str] | None = None) -> Iterator[Row]:
    """Yield the rows, as Python has them: structs are dicts, lists are lists.

    Args:
        path: the file.
        name: what rows call it: row 3, from 0, is `name:row 3`.
        columns: which of them; all if None.

    Raises:
        UserError: no Parquet file, or one that is damaged.
    """
    with _opened(path) as file:
        wanted = None if columns is None else [one for one in file.schema_arrow.names if one in columns]
        number = 0
        # One thread: several would read ahead.
        for batch in file.iter_batches(BATCH, columns=wanted, use_threads=False):
            for data in batch.to_pylist():
                yield Row(f"{name}:row {number}", data)
                number += 1


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not pre_buffer, which reads whole row groups: gigabytes of pictures.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        what = f"cannot read this Parquet file ({first_line(error)})"
        raise UserError(what, where=path, fix="fetch it again") from error
