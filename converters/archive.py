"""Unpack an archive that somebody else made: regular files only, under names that we have checked, within limits.

Not `extractall`: the filters of tarfile have been escaped again and again. Links, devices and folders are left out;
folders are made as files need them, so that no member can place a link under a later one.

Not covered: RAR, 7z and archives with a password, which need programs of their own; unpack them, and give --src_dir.
"""

from __future__ import annotations

import gzip
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from phi3v.schema import UserError

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an archive may hold; the defaults let UCF-101 (7 GB, 13,320 clips) pass by far.

    Attributes:
        files: regular files.
        size: bytes, unpacked.
        ratio: bytes unpacked a byte of archive, once more than `free` bytes are out; deflate reaches 1,032.
        free: bytes that no ratio is asked of.
    """

    files: int = 2_000_000
    size: int = 200_000_000_000
    ratio: int = 200
    free: int = 50_000_000


def unpack(archive: Path, folder: Path, *, limits: Limits = Limits()) -> None:  # frozen
    """Unpack the regular files of a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz below `folder`.

    Args:
        archive: told by its content.
        folder: made as files need it; nothing is written outside.
        limits: what it may hold.

    Raises:
        UserError: no such archive, a damaged one, one beyond the limits, or a member that would land outside `folder`
            or on another.
    """
    meter = _Meter(archive, limits)
    with _told(archive):
        for name, source in _members(archive):
            target = folder / _safe_name(archive, name)
            with source, _new(archive, name, target) as file:
                while chunk := source.read(CHUNK):
                    meter.add(len(chunk))
                    file.write(chunk)
            meter.count()


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    else:
        yield from _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            kind = member.external_attr >> 28  # the upper half holds Unix's mode; 8 is a regular file, 0 unknown
            if member.is_dir() or kind not in {0, 8}:
                continue
            yield member.filename, opened.open(member)


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    # gzip apart, since its checksum stands behind the last member, where tarfile does not look.
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(archive) if packed else archive.open("rb") as stream:
        with tarfile.open(fileobj=stream, mode="r:" if packed else "r:*") as opened:
            for member in opened:
                if member.isreg() and (source := opened.extractfile(member)):
                    yield member.name, source
        while stream.read(CHUNK):
            pass


class _Meter:
    """Counts what comes out, and stops at the limits; headers are not believed."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self._archive = archive
        self._limits = limits
        self._packed = archive.stat().st_size if archive.exists() else 0
        self._files = self._bytes = 0

    def count(self) -> None:
        self._files += 1
        if self._files > self._limits.files:
            raise self._beyond(f"more than {self._limits.files} files")

    def add(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limits.size:
            raise self._beyond(f"more than {self._limits.size} bytes")
        if self._bytes > max(self._limits.free, self._limits.ratio * self._packed):
            raise self._beyond(f"unpacks to more than {self._limits.ratio} times its size")

    def _beyond(self, what: str) -> UserError:
        fix = "do not trust this archive; if you do, unpack it yourself, and give the folder as --src_dir"
        return UserError(what, where=self._archive, fix=fix)


@contextmanager
def _new(archive: Path, name: str, target: Path) -> Iterator[IO[bytes]]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # x: never through a link, never over another member.
        with target.open("xb") as file:
            yield file
    except (FileExistsError, NotADirectoryError) as error:  # a member's name, or one of its folders
        what = f"member {name!r} would overwrite {target.name}"
        raise UserError(what, where=archive, fix="unpack into an empty folder, or do not trust this archive") from error


@contextmanager
def _told(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _damaged(archive, error) from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile's words for a password, and for odd compression
        fix = "unpack it with a program that can, and give the folder as --src_dir"
        raise UserError(f"cannot unpack it ({error})", where=archive, fix=fix) from error
    except FileNotFoundError as error:
        raise UserError("no such archive", where=archive, fix="check the path") from error
    except OSError as error:
        if error.errno is None:  # bz2's word for damage
            raise _damaged(archive, error) from error
        raise


def _damaged(archive: Path, error: Exception) -> UserError:
    return UserError(f"cannot unpack it ({error})", where=archive, fix="remove the file, and fetch it again")


def _safe_name(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    # A colon and a backslash are Windows' roots and separators.
    if not path.parts or path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", name):
        raise UserError(f"member {name!r} leads outside", where=archive, fix="do not trust this archive")
    return path
