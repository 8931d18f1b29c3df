"""Where a picture ends in its file: what decoders don't tell, since they stop reading when the picture is whole.

Sources: JPEG (ITU-T T.81, B.1.1), PNG (W3C, 5.3), GIF89a (sections 17 to 27), WebP (RFC 9649, 2.3).
"""

from __future__ import annotations

import os
from typing import IO

_JPEG_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_JPEG_END = 0xD9
_GIF_END, _GIF_FRAME, _GIF_EXTENSION = 0x3B, 0x2C, 0x21
_TAIL = 12


def seems_whole(file: IO[bytes], size: int, form: str) -> bool:
    """Return whether a file ends as a picture of its format does: one read, not a proof."""
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    if form == "JPEG":
        return tail.endswith(b"\xff\xd9")
    if form == "PNG":
        return tail.endswith(b"IEND\xaeB`\x82")
    if form == "GIF":
        return tail.endswith(b";")
    if form == "WEBP":
        file.seek(4, os.SEEK_SET)
        return 8 + int.from_bytes(file.read(4), "little") == size
    return False


def picture_end(data: bytes, form: str) -> int | None:
    """Return the offset after the last byte of the first picture in a file; None if it is cut off.

    Args:
        data: the whole file.
        form: as Pillow names it; of one that is not known here, the end of the file is the end.
    """
    walk = {"JPEG": _jpeg_end, "PNG": _png_end, "GIF": _gif_end, "WEBP": _webp_end}.get(form)
    try:
        return walk(data) if walk else len(data)
    except IndexError:
        return None


def _jpeg_end(data: bytes) -> int | None:
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            return None
        marker = data[at + 1]
        if marker == _JPEG_END:
            return at + 2
        if marker in {0x00, 0xFF}:  # a byte of data that looks like a marker; a fill byte
            at += 2 if marker == 0x00 else 1
        elif marker in _JPEG_ALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _png_end(data: bytes) -> int | None:
    at = 8
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length
        if kind == b"IEND":
            return at if at <= len(data) else None
    return None


def _gif_end(data: bytes) -> int | None:
    at = 13 + _colours(data[10])
    while data[at] != _GIF_END:
        if data[at] == _GIF_FRAME:  # a frame: its place, its colours, the size of its codes, its blocks
            at = _blocks_end(data, at + 11 + _colours(data[at + 9]))
        elif data[at] == _GIF_EXTENSION:
            at = _blocks_end(data, at + 2)
        else:
            return None
    return at + 1


def _colours(flags: int) -> int:
    """Return the bytes of the colour table that a GIF's flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _blocks_end(data: bytes, at: int) -> int:
    while data[at]:
        at += 1 + data[at]
    return at + 1


def _webp_end(data: bytes) -> int | None:
    end = 8 + int.from_bytes(data[4:8], "little")
    return end if end <= len(data) else None
