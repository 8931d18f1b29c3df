"""Which frames of a video are taken: integer arithmetic on the frames that there are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, takewhile
from typing import Literal

from phi3v.schema import UserError

Method = Literal["even", "middle", "fps"]
Short = Literal["fewer", "repeat", "reject"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which frames to take.

    Attributes:
        count: how many; with `fps` the most.
        method: `even`, from the first on, at even distances, as the recipe does; `middle`, the middle of each of
            `count` equal segments; `fps`, what a viewer sees at 0, 1/fps, 2/fps ... seconds.
        fps: frames a second, for `fps`.
        short: what to do with a video of fewer than `count` frames (`even`, `middle`): take each once, take some
            several times, or reject it.
    """

    count: int
    method: Method = "even"
    fps: float = 1.0
    short: Short = "fewer"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"--num_frames {self.count} takes no frame", fix="give 1 or more")
        if not self.fps > 0:
            raise UserError(f"--fps {self.fps} takes no frame", fix="give a number above 0")

    def pick(self, seconds: Sequence[Fraction]) -> list[int]:
        """Return the indices of the frames to take, in order.

        Args:
            seconds: when each frame is shown, in display order, the first at 0.
        """
        if self.method == "fps":
            return _at_rate(seconds, Fraction(str(self.fps)), self.count)
        total = len(seconds)
        if total < self.count and self.short != "repeat":
            return list(range(total))
        if self.method == "even":
            return [k * total // self.count for k in range(self.count)]
        return [(2 * k + 1) * total // (2 * self.count) for k in range(self.count)]

    def rejects(self, total: int) -> bool:
        """Tell whether a video of `total` frames is too short."""
        return self.short == "reject" and self.method != "fps" and total < self.count


def _at_rate(seconds: Sequence[Fraction], fps: Fraction, most: int) -> list[int]:
    """Return the frame that is shown at each tick, the last one until the video ends; ticks share none twice."""
    if not seconds:
        return []
    ticks = takewhile(lambda tick: tick <= seconds[-1], (k / fps for k in count()))
    shown = (bisect_right(seconds, tick) - 1 for tick in ticks)
    return list(dict.fromkeys(shown))[:most]
