"""What is wrong with an image file: by its header in microseconds, or decoded to its last byte.

Headers are read in this process, by Pillow's parsers of the allowed formats alone. Decoding is for a process of its
own (`phi3v.schema.decoder`), since a damaged file may crash a decoder, or keep it busy for ever.

Not covered: damage that decodes. Flipped bits in a JPEG or a WebP are found by checksums alone.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)  # fmt: skip

from phi3v.schema.ends import picture_end, seems_whole
from phi3v.schema.errors import first_line
from phi3v.schema.rules import count_noun
from phi3v.schema.tokens import MAX_CROPS, crop_grid

# The plugins by name: Pillow would otherwise import all of its formats when it meets a WebP.
FORMATS = tuple(
    plugin.format
    for plugin in (
        BmpImagePlugin.BmpImageFile, GifImagePlugin.GifImageFile, JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile, WebPImagePlugin.WebPImageFile,
    )
)  # fmt: skip
MOST_PIXELS = 89_478_485  # Pillow's own line between a picture and a decompression bomb
_SUFFIXES = {
    ".bmp": "BMP", ".dib": "BMP", ".gif": "GIF", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG",
    ".png": "PNG", ".apng": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
_MAGIC = {b"BM": "BMP", b"GIF8": "GIF", b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WEBP"}


class Flaw(NamedTuple):
    """What is wrong with an image: a code, and words to put after its name."""

    code: str
    what: str


class Look(NamedTuple):
    """What a look at an image gave.

    Attributes:
        flaws: what is wrong with it.
        width, height: in pixels as stored; 0 if the header cannot be read.
        size: of the file, in bytes.
        doubtful: its end looks wrong, so that only decoding can tell.
    """

    flaws: tuple[Flaw, ...]
    width: int = 0
    height: int = 0
    size: int = 0
    doubtful: bool = False


class Folder:
    """Looks at the images below one root.

    Args:
        root: where the images' paths start.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real_root = root.resolve()
        self._inside: dict[str, bool] = {}  # whether a folder lies below the root, links followed

    def look_all(self, names: Iterable[str]) -> Iterator[Look]:
        """Yield a look at the header of each image."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's doubts about metadata, and about sizes that are checked here
            for name in names:
                yield self.look(name)

    def look(self, name: str) -> Look:
        """Return what the header of one image tells."""
        path = f"{self.root}/{name}"
        try:
            if not self._lies_inside(path):
                return Look((Flaw("image-outside", f"leads to {os.path.realpath(path)}, and does not lie"),))
            # Not to wait for ever for somebody to write into a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return Look((Flaw("image-missing", "does not exist"),))
        except OSError as error:
            return Look((Flaw("image-missing", f"cannot be read ({error.strerror})"),))
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            return Look((Flaw("image-missing", "is not a file"),))
        with open(descriptor, "rb", buffering=4096) as file:  # noqa: PTH123  # a descriptor has no Path
            return look_at_header(file, status.st_size, Path(name).suffix)

    def _lies_inside(self, path: str) -> bool:
        folder = os.path.dirname(path)  # noqa: PTH120  # ten times as fast as Path, and this is done for every image
        inside = self._inside.get(folder)
        if inside is None:
            inside = self._inside[folder] = Path(folder).resolve().is_relative_to(self._real_root)
        if stat.S_ISLNK(os.lstat(path).st_mode):
            return Path(path).resolve().is_relative_to(self._real_root)
        return inside


def look_at_header(file: IO[bytes], size: int, suffix: str) -> Look:
    """Return what the header of an open file tells.

    Args:
        file: at its start.
        size: in bytes.
        suffix: of its name, with the dot.
    """
    if not size:
        return Look((Flaw("image-broken", "is an empty file"),))
    try:
        with Image.open(file, formats=FORMATS) as image:
            (width, height), form = image.size, _plain(image.format)
            flaws = tuple(_size_flaws(width, height))
            named = _SUFFIXES.get(suffix.lower(), form)
            if named != form:
                flaws += (Flaw("image-extension", f"is a {form}, not a {named}"),)
            return Look(flaws, width, height, size, doubtful=not seems_whole(file, size, form))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter where warnings are errors
        return Look((Flaw("image-size", f"has more than {MOST_PIXELS:,} pixels"),), size=size)
    except Exception as error:  # noqa: BLE001  # parsers of hostile files raise whatever they stumble over
        file.seek(0)
        return Look((_unreadable(file.read(12), error),), size=size)


def _plain(form: str | None) -> str:
    """Return the format's name; a JPEG that holds further pictures is a JPEG."""
    return "JPEG" if form == "MPO" else str(form)


def _size_flaws(width: int, height: int) -> Iterator[Flaw]:
    if width * height > MOST_PIXELS:
        yield Flaw("image-size", f"has {width} x {height} pixels, more than {MOST_PIXELS:,}")
        return
    try:
        crop_grid(width, height, MAX_CROPS)
    except ValueError as error:
        yield Flaw("image-size", f"cannot be used: {error}")


def _unreadable(head: bytes, error: Exception) -> Flaw:
    form = next((form for magic, form in _MAGIC.items() if head.startswith(magic)), None)
    if form:
        words = "" if isinstance(error, UnidentifiedImageError) else f" ({first_line(error):.100})"
        return Flaw("image-broken", f"is a damaged {form}{words}")
    return Flaw("image-format", f"is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}: it starts with {head!r}")


def decode(path: str) -> list[Flaw]:
    """Return what decoding a file to its last byte brings up, beyond what `Folder.look` says.

    For a process of its own: see the module.
    """
    try:
        data = Path(path).read_bytes()
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            form, several = _plain(image.format), image.format == "MPO"
            image.load()
    except MemoryError:
        return [Flaw("image-size", "needs more memory than is allowed")]
    except Exception as error:  # noqa: BLE001  # as above
        return [Flaw("image-broken", f"cannot be decoded ({first_line(error):.100})")]
    end = picture_end(data, form)
    if end is None:
        return [Flaw("image-broken", "is cut off: its end is missing")]
    if end < len(data) and not several:
        return [Flaw("image-trailing", f"is followed by {count_noun(len(data) - end, 'byte')} of something else")]
    return []
