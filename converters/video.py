"""Frames of a video, counted honestly, and decoded only where they are needed.

A header's number of frames is not believed: an AVI cut in half still announces all of them. The packets are counted,
and two ways lead to the frames:

- Whole: decode everything in order, keep what is wanted of as many frames as there are packets, and decode once more if
  another number came out.
- Stretches: where there are as many packets as announced, with display times and key frames, decode from the key
  frame before each wanted frame up to it, and the last stretch to its end. What does not come out as the packets
  promised leads back to the whole way, so that the frames equal those of a sequential decode.

Not covered: damage inside a stretch that no wanted frame needs; `decode="all"` looks there, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from phi3v.converters.base import SourceError
from phi3v.converters.images import MAX_PIXELS
from phi3v.converters.packets import Clock, Promise, Stretch, read_promise
from phi3v.converters.sampling import Sampling

if TYPE_CHECKING:
    import numpy as np
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer
    from numpy.typing import NDArray

Decode = Literal["needed", "all"]

WORTHWHILE = 0.7  # of the packets: to decode more in stretches costs more than to decode all


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What was taken from a video.

    Attributes:
        frames: arrays (height, width, 3), uint8, BGR (as OpenCV has it), turned upright by quarters as the file says.
        indices: their places among the video's frames in display order, from 0.
        seconds: when they are shown, the first frame of the video at 0.
        total: how many frames the video has, whatever its header says.
        announced: how many its header says; 0 if it does not.
    """

    frames: list[NDArray[np.uint8]]
    indices: list[int]
    seconds: list[float]
    total: int
    announced: int


def read_frames(path: Path, sampling: Sampling, *, decode: Decode = "needed") -> Sampled:
    """Sample frames from a video's first video stream.

    Args:
        path: a video with at least one frame.
        sampling: which frames.
        decode: "needed" decodes no more than the wanted frames ask for, where that is safe; "all" decodes everything,
            and so finds damage in between.

    Raises:
        SourceError: not a video, no video stream, no frame, too large, damaged before its end, or shorter than
            `sampling` accepts.
    """
    with _opened(path) as (container, stream):
        promise = read_promise(container, stream)
        feed = _Feed(stream, promise.kept) if promise.kept else None
        taken, seconds = _decode(path, promise, sampling, feed, decode=decode)
    if set(wanted := sampling.pick(seconds)) != taken.keys():
        # Other frames came out than were promised. Rare: a second pass keeps memory flat.
        taken, _ = _decode_whole(path, promise, wanted, None)
    if not seconds:
        raise SourceError("no-frames", "no frame of this video decodes", where=path, fix="fetch it again, or remove it")
    if sampling.rejects(len(seconds)):
        what = f"{len(seconds)} frames, fewer than the {sampling.count} to take"
        raise SourceError("too-short", what, where=path, fix="lower --num_frames, or choose another --short")
    return Sampled(
        frames=[taken[index] for index in wanted],
        indices=wanted,
        seconds=[float(seconds[index]) for index in wanted],
        total=len(seconds),
        announced=promise.announced,
    )


class _Feed(NamedTuple):
    """A stream whose decoder has seen nothing yet, and its packets."""

    stream: VideoStream
    packets: Iterable[Packet[VideoStream]]


def _decode(
    path: Path, promise: Promise, sampling: Sampling, feed: _Feed | None, *, decode: Decode
) -> tuple[dict[int, NDArray[np.uint8]], Clock]:
    """Decode as little as is safe; return the frames that the promise lets want, and when each frame is shown."""
    wanted = sampling.pick(promise.seconds)
    if decode == "needed" and promise.pictures:
        stretches = promise.stretches(wanted)
        if sum(stretch.last - stretch.first + 1 for stretch in stretches) < WORTHWHILE * len(promise.pictures):
            taken = _decode_stretches(path, promise, wanted, stretches, feed)
            if taken is not None:
                return taken, promise.seconds
            feed = None  # its decoder has seen something
    return _decode_whole(path, promise, wanted, feed)


def _decode_stretches(
    path: Path, promise: Promise, indices: Collection[int], stretches: Sequence[Stretch], feed: _Feed | None
) -> dict[int, NDArray[np.uint8]] | None:
    """Decode what the wanted frames need; return them by index, or None where something else came out."""
    import av

    wanted = {promise.times[index]: index for index in indices}
    missing = set().union(*(stretch.times for stretch in stretches))
    keys = {promise.pictures[stretch.first].time for stretch in stretches}
    taken, pictures = {}, _Pictures()
    try:
        with _fed(path, feed) as (stream, packets):
            for frame in _frames_of_stretches(stream, packets, stretches):
                if frame.is_corrupt or (frame.pts in keys and not frame.key_frame):
                    return None
                missing.discard(frame.pts)
                if frame.pts in wanted:
                    taken[wanted[frame.pts]] = pictures.of(frame)
    except (av.FFmpegError, SourceError):
        return None  # the whole way says how far it comes
    return None if missing else taken


def _frames_of_stretches(
    stream: VideoStream, packets: Iterable[Packet[VideoStream]], stretches: Sequence[Stretch]
) -> Iterator[VideoFrame]:
    """Yield the frames of the stretches, and whatever the decoder gives with them."""
    starts = {stretch.first: stretch.times for stretch in stretches}
    awaited: set[int] = set()
    for number, packet in enumerate(packets):
        if number in starts:
            if not awaited:
                stream.codec_context.flush_buffers()
            awaited |= starts[number]
        if awaited:
            for frame in packet.decode():
                awaited.discard(frame.pts)
                yield frame


def _decode_whole(
    path: Path, promise: Promise, indices: Collection[int], feed: _Feed | None
) -> tuple[dict[int, NDArray[np.uint8]], Clock]:
    """Decode every frame; return the wanted ones by index, and when each frame is shown."""
    import av

    wanted = set(indices)
    taken, pictures = {}, _Pictures()
    times: list[int | None] = []
    with _fed(path, feed) as (_, packets):
        try:
            for index, frame in enumerate(frame for packet in packets for frame in packet.decode()):
                times.append(frame.pts)
                if index in wanted:
                    taken[index] = pictures.of(frame)
        except av.FFmpegError as error:
            seen = f"after {len(times)} of {promise.announced} announced frames " if promise.announced else ""
            what = f"cannot decode this video {seen}({error.strerror})"
            raise SourceError("damaged", what, where=path, fix="fetch it again, or remove it") from error
    known = [time for time in times if time is not None]
    if len(known) == len(times) and known == sorted(set(known)):
        return taken, Clock(known, promise.unit)
    # AVI's times are guesses that run backwards where pictures are reordered.
    return taken, Clock(range(len(times)), 1 / promise.rate)


@contextmanager
def _fed(path: Path, feed: _Feed | None) -> Iterator[_Feed]:
    """Return what is at hand, or open the file again."""
    if feed:
        yield feed
        return
    with _opened(path) as (container, stream):
        yield _Feed(stream, container.demux(stream))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video; errors on the way name the file."""
    import av

    try:
        # Absolute, since FFmpeg takes what stands before a colon for a protocol; old clips' titles are not UTF-8.
        with av.open(str(path.absolute()), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise SourceError("no-video", "no video stream in this file", where=path, fix="remove the file")
            stream = container.streams.video[0]
            if not stream.codec_context:
                what = "FFmpeg has no decoder for this file's video stream"
                raise SourceError("no-video", what, where=path, fix="fetch it again, or encode it as H.264")
            if stream.width * stream.height > MAX_PIXELS:
                what = f"{stream.width} x {stream.height} pixels a frame, more than {MAX_PIXELS}"
                raise SourceError("too-large", what, where=path, fix="scale it down first")
            stream.codec_context.thread_count = 1  # the processes are the threads
            yield container, stream
    except PermissionError as error:
        what = f"cannot read this file ({error.strerror})"
        raise SourceError("unreadable", what, where=path, fix="make it readable") from error
    except av.FFmpegError as error:
        what = f"cannot decode this video ({error.strerror})"
        raise SourceError("no-video", what, where=path, fix="fetch it again, or remove it") from error


class _Pictures:
    """Turns decoded frames into arrays.

    One reformatter for all of a video's frames, and no threads of its own: setting them up for each frame takes longer
    than the conversion.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def of(self, frame: VideoFrame) -> NDArray[np.uint8]:
        import numpy as np

        array = self._reformatter.reformat(frame, format="bgr24", threads=1).to_ndarray()
        quarters = round(frame.rotation / 90)  # counter-clockwise
        return np.ascontiguousarray(np.rot90(array, quarters), dtype=np.uint8)
