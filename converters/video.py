"""Frames of a video, counted honestly, and decoded only where they are needed.

The number of frames that a header announces is only a first guess: an AVI cut in half still announces all of them.
Two ways lead to the frames:

- Whole: decode everything in order, and sample from the frames that came out.
- Stretches: where there are as many packets as announced, with display times and key frames, decode from the key
  frame before each wanted frame up to it, and the last stretch to its end. What does not come out as the packets
  promised leads back to the whole way, so that the frames equal those of a sequential decode.

Not covered: damage inside a stretch that no wanted frame needs; `decode="all"` looks there, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from phi3v.converters.base import SourceError
from phi3v.converters.images import MAX_PIXELS
from phi3v.converters.sampling import Sampling

if TYPE_CHECKING:
    import numpy as np
    from av import VideoFrame, VideoStream
    from av.container import InputContainer
    from numpy.typing import NDArray

Decode = Literal["needed", "all"]

# Codecs whose packets are one picture each, and whose key frames start anew.
SEEKABLE = {"mpeg4", "h264", "hevc", "libdav1d", "av1", "vp8", "vp9", "mjpeg"}
# Xvid writes packets of 1 to 8 bytes for "the picture before, once more" and for pictures it has already sent.
SMALLEST_PACKET = 10


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
    promise = _read_promise(path)
    seconds, taken = promise.seconds, None
    if decode == "needed" and promise.is_seekable:
        taken = _decode_stretches(path, promise, sampling.pick(seconds))
    if taken is None:
        taken, seconds = _decode_whole(path, promise, sampling.pick(seconds))
        if (wanted := sampling.pick(seconds)) != sorted(taken):
            # Other frames came out than were promised. Rare: a second pass keeps memory flat.
            taken, _ = _decode_whole(path, promise, wanted)
    if not seconds:
        raise SourceError("no-frames", "no frame of this video decodes", where=path, fix="fetch it again, or remove it")
    if sampling.rejects(len(seconds)):
        what = f"{len(seconds)} frames, fewer than the {sampling.count} to take"
        raise SourceError("too-short", what, where=path, fix="lower --num_frames, or choose another --short")
    indices = sampling.pick(seconds)
    return Sampled(
        frames=[taken[index] for index in indices],
        indices=indices,
        seconds=[float(seconds[index]) for index in indices],
        total=len(seconds),
        announced=promise.announced,
    )


# ----------------------------------------------------------------------------------------------------------- packets


class _Packet(NamedTuple):
    """A picture that is not decoded: its display time, and whether decoding can start with it."""

    time: int
    is_key: bool


@dataclass(frozen=True)
class _Promise:
    """What a file says of its pictures before one is decoded.

    Attributes:
        announced: the frames of the header; 0 if it does not say.
        unit: seconds of a unit of time.
        rate: frames a second.
        packets: in the order of decoding; none where they cannot be relied on.
    """

    announced: int
    unit: Fraction
    rate: Fraction
    packets: tuple[_Packet, ...] = ()

    @property
    def is_seekable(self) -> bool:
        return bool(self.packets)

    @cached_property
    def times(self) -> list[int]:
        """Display times in display order."""
        return sorted(packet.time for packet in self.packets)

    @cached_property
    def seconds(self) -> list[Fraction]:
        """When each frame is shown."""
        if self.packets:
            return [(time - self.times[0]) * self.unit for time in self.times]
        return [index / self.rate for index in range(self.announced)]

    def key_before(self, time: int) -> int:
        """Return the number of the packet to start with for the frame of this time.

        Not simply the key frame before: pictures that are decoded after a key frame and shown before it ("leading")
        may refer to what was before the key frame.
        """
        place = self._places[time]
        return next(n for n in range(place, -1, -1) if self.packets[n].is_key and self.packets[n].time <= time)

    @cached_property
    def _places(self) -> dict[int, int]:
        return {packet.time: number for number, packet in enumerate(self.packets)}


def _read_promise(path: Path) -> _Promise:
    with _opened(path) as (container, stream):
        if stream.width * stream.height > MAX_PIXELS:
            what = f"{stream.width} x {stream.height} pixels a frame, more than {MAX_PIXELS}"
            raise SourceError("too-large", what, where=path, fix="scale it down first")
        return _Promise(
            announced=stream.frames,
            unit=stream.time_base or Fraction(1),
            rate=stream.average_rate or Fraction(1),
            packets=_packets(container, stream),
        )


def _packets(container: InputContainer, stream: VideoStream) -> tuple[_Packet, ...]:
    """Read all packets; return none where frames cannot be told from them."""
    context = stream.codec_context
    # AVI knows no display times, so that only streams without reordered pictures have true ones.
    if context.name not in SEEKABLE or (context.has_b_frames and container.format.name == "avi"):
        return ()
    packets = []
    for packet in container.demux(stream):
        if packet.size:  # the last one is empty: it asks the decoder for what it still holds
            if packet.pts is None or packet.is_corrupt or packet.is_discard or packet.size < SMALLEST_PACKET:
                return ()
            packets.append(_Packet(packet.pts, packet.is_keyframe))
    times = {packet.time for packet in packets}
    if not packets or len(times) < len(packets) or len(packets) != (stream.frames or len(packets)):
        return ()
    return tuple(packets) if packets[0].is_key and packets[0].time == min(times) else ()


# ---------------------------------------------------------------------------------------------------------- decoding


def _decode_stretches(path: Path, promise: _Promise, indices: Collection[int]) -> dict[int, NDArray[np.uint8]] | None:
    """Decode what the wanted frames need; return them by index, or None where something else came out."""
    import av

    wanted = {promise.times[index]: index for index in indices}
    last = promise.packets[promise.key_before(promise.times[-1])].time
    missing = wanted.keys() | {time for time in promise.times if time >= last}
    taken, pictures = {}, _Pictures()
    try:
        for frame in _frames_of_stretches(path, promise, missing):
            missing.discard(frame.pts)
            if frame.pts in wanted:
                taken[wanted[frame.pts]] = pictures.of(frame)
    except (av.FFmpegError, SourceError):
        return None  # the whole way says how far it comes
    return None if missing else taken


def _frames_of_stretches(path: Path, promise: _Promise, times: Collection[int]) -> Iterator[VideoFrame]:
    """Yield the frames of these times and whatever has to be decoded with them; ends early at a false key frame."""
    stretches: dict[int, set[int]] = {}
    for time in times:
        stretches.setdefault(promise.key_before(time), set()).add(time)
    keys = {promise.packets[number].time for number in stretches}
    awaited: set[int] = set()
    with _opened(path) as (container, stream):
        for number, packet in enumerate(container.demux(stream)):
            if number in stretches:
                if not awaited:
                    stream.codec_context.flush_buffers()
                awaited |= stretches[number]
            if not awaited:
                continue
            for frame in packet.decode():
                if frame.is_corrupt or (frame.pts in keys and not frame.key_frame):
                    return
                awaited.discard(frame.pts)
                yield frame


def _decode_whole(
    path: Path, promise: _Promise, indices: Collection[int]
) -> tuple[dict[int, NDArray[np.uint8]], list[Fraction]]:
    """Decode every frame; return the wanted ones by index, and when each frame is shown."""
    import av

    wanted = set(indices)
    taken, pictures = {}, _Pictures()
    times: list[int | None] = []
    with _opened(path) as (container, stream):
        try:
            for index, frame in enumerate(container.decode(stream)):
                times.append(frame.pts)
                if index in wanted:
                    taken[index] = pictures.of(frame)
        except av.FFmpegError as error:
            seen = f"after {len(times)} of {promise.announced} announced frames " if promise.announced else ""
            what = f"cannot decode this video {seen}({error.strerror})"
            raise SourceError("damaged", what, where=path, fix="fetch it again, or remove it") from error
    known = [time for time in times if time is not None]
    if len(known) == len(times) and known == sorted(set(known)):
        return taken, [(time - known[0]) * promise.unit for time in known]
    # AVI's times are guesses that run backwards where pictures are reordered.
    return taken, [index / promise.rate for index in range(len(times))]


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
