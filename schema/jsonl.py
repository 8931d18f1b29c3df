"""JSON lines by number and by offset, and files that appear whole or not at all."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

BLOCK_BYTES = 256 * 1024


class Line(NamedTuple):
    """One line of a file: its 1-based number, its byte offset, its bytes without the line feed."""

    number: int
    offset: int
    data: bytes


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file, split at LF alone (U+2028 may stand inside a JSON string)."""
    with path.open("rb") as file:
        offset = 0
        for number, data in enumerate(file, 1):
            yield Line(number, offset, data.removesuffix(b"\n"))
            offset += len(data)


class Block(NamedTuple):
    """Consecutive lines of a file: the 1-based number of the first, its byte offset, the lines with their ends."""

    number: int
    offset: int
    lines: list[bytes]


class Span(NamedTuple):
    """A stretch of a file from the start of a line to the end of one, in bytes."""

    start: int
    end: int


def read_blocks(path: Path, span: Span | None = None, *, size: int = BLOCK_BYTES) -> Iterator[Block]:
    """Yield the lines of a file, or of a span of it, in blocks; numbers count from the start of the span.

    Args:
        path: any readable file.
        span: as `spans` gives it.
        size: bytes a block; it ends with the line in which they end.
    """
    with path.open("rb", buffering=1 << 20) as file:
        number, offset = 1, span.start if span else 0
        if span:
            file.seek(span.start)
        while lines := file.readlines(size):
            length = sum(map(len, lines))
            while span and offset + length > span.end:
                length -= len(lines.pop())
            yield Block(number, offset, lines)
            number += len(lines)
            offset += length
            if span and offset == span.end:
                return


def spans(path: Path, size: int) -> Iterator[Span]:
    """Yield a file in spans of about `size` bytes, each of whole lines."""
    with path.open("rb") as file:
        start, end = 0, file.seek(0, os.SEEK_END)
        while start < end:
            file.seek(min(start + size, end) - 1)
            file.readline()
            yield Span(start, file.tell())
            start = file.tell()


def read_block(path: Path, offset: int, count: int) -> list[bytes]:
    """Return `count` lines from a byte offset on, with their ends."""
    with path.open("rb") as file:
        file.seek(offset)
        return list(islice(file, count))


def line_offsets(path: Path) -> array[int]:
    """Return the byte offset of each line: 8 bytes a line, so that a million records cost 8 MB."""
    return array("Q", (line.offset for line in read_lines(path)))


def read_line_at(path: Path, offset: int) -> bytes:
    """Return the line that starts at a byte offset, without its line feed."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.readline().removesuffix(b"\n")


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its name only when the block ends without an error.

    A kill at any moment leaves the old file, or none, and at most a hidden `.NAME.tmp` beside it.

    Args:
        path: the file's name.
        durable: also outlive a power cut, at the price of waiting for the disk.
    """
    # Beside the target, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
