"""What a video file promises before a picture is decoded: how many, when they show, where decoding can start."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from av import Packet, VideoStream
    from av.container import InputContainer

# Codecs whose packets are one picture each, and whose key frames start anew.
SEEKABLE = {"mpeg4", "h264", "hevc", "libdav1d", "av1", "vp8", "vp9", "mjpeg"}
# Xvid writes packets of 1 to 8 bytes for "the picture before, once more" and for pictures it has already sent.
SMALLEST_PACKET = 10
KEPT_BYTES = 64_000_000  # of a file whose packets are kept, so that it is read once


class Picture(NamedTuple):
    """A picture that is not decoded: its display time, and whether decoding can start with it."""

    time: int
    is_key: bool


class Stretch(NamedTuple):
    """Packets from a key frame to the last one that is needed, by their numbers in the order of decoding."""

    first: int
    last: int
    times: frozenset[int]


class Clock(Sequence[Fraction]):
    """Seconds from the first time to each, worked out when they are asked for: fractions are slow."""

    def __init__(self, times: Sequence[int], unit: Fraction) -> None:
        self._times = times
        self._unit = unit

    def __len__(self) -> int:
        return len(self._times)

    def __getitem__(self, index: int) -> Fraction:  # type: ignore[override]  # nobody takes slices
        return (self._times[index] - self._times[0]) * self._unit


@dataclass(frozen=True)
class Promise:
    """What a file says of its pictures.

    Attributes:
        announced: the frames of the header; 0 if it does not say.
        frames: how many packets look like a picture: a good guess, where the header's is none.
        unit: seconds of a unit of time.
        rate: frames a second.
        pictures: in the order of decoding; none where they cannot be relied on.
        kept: the packets themselves, unless they are too large.
    """

    announced: int
    unit: Fraction
    rate: Fraction
    frames: int = 0
    pictures: tuple[Picture, ...] = ()
    kept: tuple[Packet[VideoStream], ...] = ()

    @cached_property
    def times(self) -> list[int]:
        """Display times in display order."""
        return sorted(picture.time for picture in self.pictures)

    @property
    def seconds(self) -> Clock:
        """When each frame is shown."""
        return Clock(self.times, self.unit) if self.pictures else Clock(range(self.frames), 1 / self.rate)

    @cached_property
    def _keys(self) -> list[int]:
        """The numbers of the packets with which decoding can start."""
        return [number for number, picture in enumerate(self.pictures) if picture.is_key]

    def stretches(self, indices: Collection[int]) -> list[Stretch]:
        """Return what to decode for these frames, in order; always with the video's end, where cuts show."""
        places = {picture.time: number for number, picture in enumerate(self.pictures)}
        end = self.pictures[self._key_before(places[self.times[-1]])].time
        wanted = {self.times[index] for index in indices} | set(self.times[bisect_left(self.times, end) :])
        needed: dict[int, set[int]] = {}
        for time in wanted:
            needed.setdefault(self._key_before(places[time]), set()).add(time)
        return [
            Stretch(first, max(places[time] for time in times), frozenset(times))
            for first, times in sorted(needed.items())
        ]

    def _key_before(self, place: int) -> int:
        """Return the number of the packet to start with for the picture of the packet `place`.

        Not simply the key frame before: pictures that are decoded after a key frame and shown before it ("leading")
        may refer to what was before the key frame.
        """
        before = range(bisect_right(self._keys, place) - 1, -1, -1)
        shown = self.pictures[place].time
        return next(key for n in before if self.pictures[key := self._keys[n]].time <= shown)


def read_promise(container: InputContainer, stream: VideoStream) -> Promise:
    """Read a stream's packets, from the container's beginning to its end, and tell what can be relied on."""
    import av

    promise = Promise(
        announced=stream.frames, unit=stream.time_base or Fraction(1), rate=stream.average_rate or Fraction(1)
    )
    keep = 0 < container.size <= KEPT_BYTES
    reliable = _is_seekable(container, stream)
    frames, pictures, kept = 0, [], []
    try:
        for packet in container.demux(stream):
            if keep:
                kept.append(packet)
            if not packet.size:  # the last one: it asks the decoder for what it still holds
                continue
            frames += packet.size > 1  # one byte: DivX fills a gap with it, and nothing comes out
            if packet.pts is None or packet.is_corrupt or packet.is_discard or packet.size < SMALLEST_PACKET:
                reliable = False
            if reliable:
                pictures.append(Picture(cast("int", packet.pts), packet.is_keyframe))
    except av.FFmpegError:
        return replace(promise, frames=promise.announced)  # decoding says how far it comes
    reliable = reliable and _agree(pictures, promise.announced)
    return replace(promise, frames=frames, pictures=tuple(pictures) if reliable else (), kept=tuple(kept))


def _is_seekable(container: InputContainer, stream: VideoStream) -> bool:
    context = stream.codec_context
    # AVI knows no display times, so that only streams without reordered pictures have true ones.
    return context.name in SEEKABLE and not (context.has_b_frames and container.format.name == "avi")


def _agree(pictures: Sequence[Picture], announced: int) -> bool:
    """Tell whether there are as many as announced, each with a time of its own, the first a key frame."""
    times = {picture.time for picture in pictures}
    whole = bool(pictures) and len(pictures) == len(times) == (announced or len(pictures))
    return whole and pictures[0].is_key and pictures[0].time == min(times)
