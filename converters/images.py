"""Pictures as bytes of image files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

JPEG_QUALITY = 75  # what the original recipe's converter writes: Pillow's default


def encode_jpeg(frame: NDArray[np.uint8]) -> bytes:
    """Return a picture (height, width, 3), uint8, BGR as a JPEG file."""
    import cv2

    done, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"OpenCV does not encode an array of shape {frame.shape} and type {frame.dtype}")
    return data.tobytes()
