"""Unpack an archive that somebody else made: regular files only, under names that we have checked.

Not covered: limits on count, size and ratio; formats other than .tar.gz.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from phi3v.schema import UserError


def unpack_tar(archive: Path, folder: Path) -> None:
    """Unpack the regular files of a .tar.gz archive below `folder`; links and devices are left out.

    Not `extractall`: its filters have been escaped again and again.

    Raises:
        UserError: not such an archive, a damaged one, or a member that would land outside `folder`.
    """
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream) as tar:
            for member in tar:
                if not member.isreg():
                    continue
                target = folder / _safe_name(archive, member.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None, "a regular member has content"
                with source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
            while stream.read(1 << 20):  # to the end, where the checksum is
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"cannot unpack it ({error})", where=archive, fix="remove the file, and fetch it again"
        ) from error


def _safe_name(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"member {name!r} leads outside", where=archive, fix="do not trust this archive")
    return path
