"""Which samples go into which optimizer step, and which of them a process takes at once.

The samples of a step depend on the seed alone: neither the number of processes nor packing changes them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

Pack = tuple[int, ...]


class Step(NamedTuple):
    """What one process does in one optimizer step: packs of samples, one pack a forward; a pack may be empty."""

    number: int
    packs: tuple[Pack, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How the samples of an optimizer step are divided.

    Attributes:
        size: samples of a step, over all processes; the last step of an epoch may have fewer.
        processes: how many take part; each gets as many packs.
        at_once: samples of a forward, without `max_tokens`.
        max_tokens: pack samples up to this many tokens a forward; none may be longer.
    """

    size: int
    processes: int = 1
    at_once: int = 1
    max_tokens: int | None = None


class Steps(Sampler[list[Step]]):
    """All steps of a run, of all its epochs, as a batch sampler: for each step one batch a process, in rank order.

    One pass over it is the whole run, so that a resumed run needs nothing but the number of its steps.

    Args:
        samples: numbers of the records that are trained on.
        tokens: by a record's number, its length.
        batching: how they are divided.
        epochs: passes over the samples; part of one, too.
        max_steps: ends the run earlier or later than `epochs`, if positive.
        seed: of the order.
    """

    # What accelerate asks a batch sampler before it deals its batches out to the processes.
    batch_size = 1
    drop_last = False

    def __init__(
        self,
        samples: Sequence[int],
        tokens: Sequence[int],
        batching: Batching,
        *,
        epochs: float = 1,
        max_steps: int = -1,
        seed: int = 0,
    ) -> None:
        self._samples = samples
        self._tokens = tokens
        self._batching = batching
        self._order = lru_cache(maxsize=1)(lambda epoch: _shuffled(len(samples), seed, epoch))
        self.per_epoch = math.ceil(len(samples) / batching.size)
        self.total = max_steps if max_steps > 0 else math.ceil(epochs * self.per_epoch)

    def __len__(self) -> int:
        return self.total * self._batching.processes

    def __iter__(self) -> Iterator[list[Step]]:
        for number in range(self.total):
            yield from ([step] for step in self.of(number))

    def samples(self, number: int) -> list[int]:
        """Return the records of a step, over all processes."""
        epoch, step = divmod(number, self.per_epoch)
        size = self._batching.size
        chosen = self._order(epoch)[step * size : (step + 1) * size]
        return [self._samples[index] for index in chosen.tolist()]

    def of(self, number: int) -> list[Step]:
        """Return what each process does in a step."""
        samples, (_, processes, at_once, max_tokens) = self.samples(number), astuple(self._batching)
        if max_tokens is None:
            packs = [tuple(samples[start : start + at_once]) for start in range(0, len(samples), at_once)]
            dealt = [packs[rank::processes] for rank in range(processes)]
            return [Step(number, _filled(own, len(dealt[0]))) for own in dealt]
        lengths = {sample: self._tokens[sample] for sample in samples}
        return [Step(number, own) for own in deal(pack(lengths, max_tokens), lengths, processes)]


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
    return [_filled(own, each) for own in dealt]


def _filled(packs: Sequence[Pack], count: int) -> tuple[Pack, ...]:
    return (*packs, *[()] * (count - len(packs)))


def _shuffled(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
