"""Samples into forwards, and forwards to processes: as little padding as there need be, and about as much work each.

A step ends when its slowest process does. With DDP it is the sum of a process's forwards that counts, with ZeRO and
FSDP every single one, since all processes meet in it: here both are even.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

Pack = tuple[int, ...]
# The work of a token's way through the released decoder is the unit: 3.72e9 multiplications, one a weight. A picture
# takes 577 patches through the 0.29e9 weights of the tower; T tokens attend in T * T * 32 layers * 3072 of them.
PICTURE = 45
QUADRATIC = 37_900


class Sizes(NamedTuple):
    """What is known of each record, by its number.

    Attributes:
        tokens: its length.
        pictures: what the vision tower sees of its images, crops and whole views.
    """

    tokens: Sequence[int]
    pictures: Sequence[int]

    def work(self, pack: Iterable[int], *, padded: bool = False) -> int:
        """Return what a forward of these samples costs, in tokens' ways through the decoder."""
        own = list(pack)
        lengths = [self.tokens[sample] for sample in own]
        if padded:
            lengths = [max(lengths, default=0)] * len(own)
        attended = sum(length * length for length in lengths) // QUADRATIC
        return sum(lengths) + attended + PICTURE * sum(self.pictures[sample] for sample in own)


def divide(
    samples: Sequence[int], sizes: Sizes, processes: int, *, at_once: int = 1, limit: int | None = None
) -> list[tuple[Pack, ...]]:
    """Return the forwards of each process: as many for each, the k-th of all about as large, and so their sums.

    Args:
        samples: of one optimizer step.
        sizes: of all records.
        processes: how many share them.
        at_once: samples of a forward, padded to the longest of them.
        limit: instead, the most tokens of a forward in which they lie end to end.
    """
    if limit is None:
        ordered = sorted(samples, key=lambda sample: (-sizes.tokens[sample], sample))  # like lengths pad least
        packs = [tuple(ordered[start : start + at_once]) for start in range(0, len(ordered), at_once)]
        return deal(packs, [sizes.work(own, padded=True) for own in packs], processes)
    packs = pack({sample: sizes.tokens[sample] for sample in samples}, limit)
    rounds = math.ceil(len(packs) / processes)
    packs = level(samples, sizes, rounds * processes, limit) or packs
    return deal(packs, [sizes.work(own) for own in packs], processes)


def pack(lengths: dict[int, int], limit: int) -> list[Pack]:
    """Return samples packed into as few rows of at most `limit` tokens as first fit, longest first, finds.

    Args:
        lengths: tokens by sample; none above the limit.
        limit: the most tokens of a pack.

    Source: first-fit decreasing needs at most 11/9 of the fewest packs, and 6/9 of one (Dosa, 2007).
    """
    packs: list[list[int]] = []
    free: list[int] = []
    for sample in sorted(lengths, key=lambda sample: (-lengths[sample], sample)):
        place = next((index for index, left in enumerate(free) if left >= lengths[sample]), len(packs))
        if place == len(packs):
            packs.append([])
            free.append(limit)
        packs[place].append(sample)
        free[place] -= lengths[sample]
    return [tuple(own) for own in packs]


def level(samples: Iterable[int], sizes: Sizes, count: int, limit: int) -> list[Pack] | None:
    """Return samples in so many packs of about as much work, each in the one that has least; None if one finds no room.

    All processes run as many forwards as the busiest one: packs fuller than that need be would leave others idle.

    Source: longest processing time first is at most 4/3 - 1/(3 count) of the best (Graham, 1969), without the limit.
    """
    packs: list[list[int]] = [[] for _ in range(count)]
    load, free = [0] * count, [limit] * count
    work = {sample: sizes.work([sample]) for sample in samples}
    for sample in sorted(work, key=lambda sample: (-work[sample], sample)):
        tokens = sizes.tokens[sample]
        place = min((index for index in range(count) if free[index] >= tokens), key=load.__getitem__, default=None)
        if place is None:
            return None
        packs[place].append(sample)
        load[place] += work[sample]
        free[place] -= tokens
    return [tuple(own) for own in packs if own]


def deal(packs: Sequence[Pack], work: Sequence[int], processes: int) -> list[tuple[Pack, ...]]:
    """Return each process's packs: as many for each, empty ones among them.

    The largest go out first, one to each process, the larger to whoever has less. No rounds have a smaller sum of their
    largest packs, and the sums of two processes differ by no more than two packs of one round do.
    """
    dealt: list[tuple[Pack, ...]] = [()] * processes
    load = [0] * processes
    for own in _rounds(sorted(zip(work, packs, strict=True), key=lambda pair: (-pair[0], pair[1])), processes):
        waiting = sorted(range(processes), key=lambda rank: (load[rank], rank))
        for rank, (cost, chosen) in zip(waiting, own, strict=True):
            dealt[rank] += (chosen,)
            load[rank] += cost
    return dealt


def _rounds(ordered: Sequence[tuple[int, Pack]], processes: int) -> Iterator[list[tuple[int, Pack]]]:
    for start in range(0, len(ordered), processes):
        own = list(ordered[start : start + processes])
        yield own + [(0, ())] * (processes - len(own))
