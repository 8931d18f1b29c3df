"""Pictures as bytes of image files: copied where they are good as they are, else decoded and encoded again.

A JPEG, PNG or WebP goes in byte for byte if it is RGB or grey with 8 bits, upright, not animated, decodes to its end
and has nothing behind it: the trainer then sees what the publisher gave. Anything else becomes 8-bit RGB: a JPEG again
(quality 95, no subsampling) if it was one, else a PNG, and the note says why.
What is not seen: damage that still decodes (flipped bits in a JPEG), which only a checksum shows.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from phi3v.converters.base import SourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PIXELS = 89_478_485  # where Pillow begins to warn: 256 MB of RGB
MAX_BYTES = 256_000_000
JPEG_QUALITY = 75  # what the original recipe's converter writes: Pillow's default

# No PostScript (it starts Ghostscript), no metafiles, no formats that nobody publishes pictures in.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}  # what is copied
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
NAME_BYTES = 200  # file systems take 255; a suffix and a number follow


class Picture(NamedTuple):
    """A picture as it is written.

    Attributes:
        data: an image file.
        suffix: `.jpg`, `.png` or `.webp`, by content.
        note: what was done to it; None if it was copied byte for byte.
    """

    data: bytes
    suffix: str
    note: str | None


def read_picture(source: Path | bytes, *, where: Path | str | None = None) -> Picture:
    """Read a picture, its header first: nothing decodes before its size is known to be sane.

    Args:
        source: a file, or its bytes (a table's cell).
        where: what errors name; a file names itself.

    Raises:
        SourceError: no picture, one that is cut or damaged, too large, or of a format that is not read.
    """
    where = where or (source if isinstance(source, Path) else None)
    data = _read_bytes(source, where)
    with _told(where), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(image, where)
        reasons = list(_reasons(image, data))
        image.load()  # to the end: verify() passes JPEGs that are cut
        if not reasons:
            return Picture(data, SUFFIXES[str(image.format)], None)
        return _encoded(_rgb(image), "JPEG" if image.format in {"JPEG", "MPO"} else "PNG", reasons)


def encode_jpeg(frame: NDArray[np.uint8]) -> bytes:
    """Return a picture (height, width, 3), uint8, BGR as a JPEG file."""
    import cv2

    done, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"OpenCV does not encode an array of shape {frame.shape} and type {frame.dtype}")
    return data.tobytes()


def safe_name(text: str) -> str:
    """Return a file name's stem made of a text: no separator, no control character, no name with a dot in front.

    Texts that differ may become one name.
    """
    name = re.sub(r"[^\w.+=@,-]+", "_", unicodedata.normalize("NFC", text)).strip(". ")
    cut = name.encode(errors="replace")[:NAME_BYTES].decode(errors="ignore")
    return cut or "_"


def _read_bytes(source: Path | bytes, where: Path | str | None) -> bytes:
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size <= MAX_BYTES:
            return source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        what = f"cannot read this picture ({error.strerror})"
        raise SourceError("missing-image", what, where=where, fix="restore it") from error
    raise SourceError("too-large", f"{size} bytes, more than {MAX_BYTES}", where=where, fix="scale it down first")


@contextmanager
def _told(where: Path | str | None) -> Iterator[None]:
    """Turn whatever Pillow raises or warns of into an error that names the picture."""
    fix = "fetch it again, or remove it"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (SourceError, AssertionError, MemoryError):  # no fault of the picture
        raise
    except UnidentifiedImageError as error:
        what = f"no picture in one of the formats {', '.join(FORMATS)}"
        raise SourceError("no-image", what, where=where, fix=fix) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SourceError("too-large", str(error), where=where, fix="scale it down first") from error
    except Exception as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error and more
        raise SourceError("damaged-image", f"cannot decode it ({error})", where=where, fix=fix) from error


def _check_size(image: Image.Image, where: Path | str | None) -> None:
    if (pixels := image.width * image.height) > MAX_PIXELS:
        what = f"{image.width} x {image.height} pixels, more than {MAX_PIXELS}"
        raise SourceError("too-large", what, where=where, fix="scale it down first")
    assert pixels > 0, "Pillow refuses empty pictures"


def _reasons(image: Image.Image, data: bytes) -> Iterator[str]:
    """Yield why a picture cannot go in as it is."""
    if image.format not in SUFFIXES:
        yield f"was {image.format}"
    elif not _ends_well(image.format, data):
        yield "bytes behind its end dropped"
    if (orientation := image.getexif().get(ORIENTATION, 1)) != 1:
        yield f"turned upright (EXIF orientation {orientation})"
    if getattr(image, "is_animated", False):
        yield f"the first of {getattr(image, 'n_frames', 2)} frames"
    if _has_alpha(image):
        yield "transparent parts on white"
    elif image.mode not in {"RGB", "L"}:
        yield f"{image.mode} made RGB"


def _ends_well(form: str, data: bytes) -> bool:
    if form == "JPEG":
        return data.endswith(b"\xff\xd9")
    if form == "PNG":
        return data.endswith(b"IEND\xaeB`\x82")
    return len(data) <= int.from_bytes(data[4:8], "little") + 9  # RIFF: 8 bytes before, 1 to make it even


def _has_alpha(image: Image.Image) -> bool:
    whole = image.mode.startswith(("I", "F"))  # Pillow keeps no transparency of these
    return image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or ("transparency" in image.info and not whole)


def _rgb(image: Image.Image) -> Image.Image:
    """Return a picture upright, in 8-bit RGB, transparent parts on white."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _eight_bits(upright).convert("RGB")
    if _has_alpha(upright):
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return upright.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits to 8: Pillow's own conversion cuts at 255, which makes such pictures white."""
    low, high = image.getextrema()
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if image.mode.startswith("I;16") or high > 255:  # noqa: PLR2004  # the largest value of 8 bits
        return image.convert("I").point(lambda value: value / 257).convert("L")
    return image.convert("L")


def _encoded(image: Image.Image, form: str, reasons: list[str]) -> Picture:
    stream = io.BytesIO()
    image.save(stream, form, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {}))
    return Picture(stream.getvalue(), SUFFIXES[form], "; ".join(reasons))
