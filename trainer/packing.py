"""Samples into rows without padding, and rows to processes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

Pack = tuple[int, ...]


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


def deal(packs: Sequence[Pack], lengths: dict[int, int], processes: int) -> list[tuple[Pack, ...]]:
    """Return each process's packs: as many for each, empty ones among them, and the tokens about even."""
    each = math.ceil(len(packs) / processes)
    dealt: list[list[Pack]] = [[] for _ in range(processes)]
    load = [(0, rank) for rank in range(processes)]
    for own in sorted(packs, key=lambda own: -sum(lengths[sample] for sample in own)):
        tokens, rank = heapq.heappop(load)
        dealt[rank].append(own)
        if len(dealt[rank]) < each:
            heapq.heappush(load, (tokens + sum(lengths[sample] for sample in own), rank))
    return [filled(own, each) for own in dealt]


def filled(packs: Sequence[Pack], count: int) -> tuple[Pack, ...]:
    """Return packs, and empty ones up to a count."""
    return (*packs, *[()] * (count - len(packs)))
