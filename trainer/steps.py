"""Which samples go into which optimizer step, and which of them a process takes at once.

The samples of a step depend on the seed alone: neither the number of processes nor packing changes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from phi3v.trainer.packing import Pack, Sizes, divide


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
        sizes: of all records.
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
        sizes: Sizes,
        batching: Batching,
        *,
        epochs: float = 1,
        max_steps: int = -1,
        seed: int = 0,
    ) -> None:
        self._samples = samples
        self._sizes = sizes
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
        own = self._batching
        dealt = divide(self.samples(number), self._sizes, own.processes, at_once=own.at_once, limit=own.max_tokens)
        return [Step(number, packs) for packs in dealt]


def _shuffled(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
