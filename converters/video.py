"""Frames of a video, counted honestly.

The number of frames that a header announces is only a first guess: an AVI cut in half still announces all of
them. What is sampled depends on the frames that really decode, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from phi3v.schema import UserError

if TYPE_CHECKING:
    import numpy as np
    from av import VideoFrame
    from numpy.typing import NDArray


def frame_indices(total: int, count: int) -> list[int]:
    """Return floor(k total / count) for k below `count`, each index once: fewer than `count` if `total` is smaller."""
    return list(range(total)) if count >= total else [k * total // count for k in range(count)]


def read_frames(path: Path, count: int) -> list[NDArray[np.uint8]]:
    """Return `count` frames at even distances, the first frame always among them.

    Args:
        path: a video with at least one frame; its first video stream is read.
        count: how many frames; a shorter video gives each of its frames once.

    Returns:
        arrays (height, width, 3), uint8, BGR (as OpenCV has it).

    Raises:
        UserError: not a video, no video stream, no frame, or damaged before its end.
    """
    taken, total, announced = _decode(path, count, None)
    if total != announced:
        # The header lied, so the first pass took the wrong frames. Rare: a second pass keeps memory flat.
        taken, total, _ = _decode(path, count, total)
    if not taken:
        raise UserError("no frame of this video decodes", where=path, fix="remove the file, or fetch it again")
    return taken


def _decode(path: Path, count: int, total: int | None) -> tuple[list[NDArray[np.uint8]], int, int]:
    """Decode once; return the frames of interest if the video has `total` frames, the real total, the total used."""
    import av
    import numpy as np

    decoded = 0
    announced = 0
    try:
        # Absolute, since FFmpeg takes what stands before a colon for a protocol; old clips' titles are not UTF-8.
        with av.open(str(path.absolute()), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise UserError("no video stream in this file", where=path, fix="remove the file")
            stream = container.streams.video[0]
            announced = stream.frames
            used = announced if total is None else total
            wanted = set(frame_indices(used, count))
            taken = []
            frames: Iterator[VideoFrame] = container.decode(stream)
            for index, frame in enumerate(frames):
                if index in wanted:
                    taken.append(np.asarray(frame.to_ndarray(format="bgr24"), dtype=np.uint8))
                decoded += 1
    except PermissionError as error:
        raise UserError(f"cannot read this file ({error.strerror})", where=path, fix="make it readable") from error
    except av.FFmpegError as error:
        seen = f"after {decoded} of {announced} announced frames " if announced else ""
        raise UserError(
            f"cannot decode this video {seen}({error.strerror})", where=path, fix="fetch it again, or remove it"
        ) from error
    return taken, decoded, used
