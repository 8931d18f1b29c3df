from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v.trainer.packing import Sizes
from phi3v.trainer.steps import Batching, Steps

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


def steps(lengths: list[int], *, size: int = 8, epochs: float = 1, max_steps: int = -1, **batching: Any) -> Steps:
    samples = [100 + number for number in range(len(lengths))]
    sizes = Sizes([0] * 100 + lengths, [0] * 100 + [length % 3 for length in lengths])
    return Steps(samples, sizes, Batching(size=size, **batching), epochs=epochs, max_steps=max_steps, seed=3)


def held(run: Steps, number: int) -> Counter[int]:
    return Counter(sample for step in run.of(number) for own in step.packs for sample in own)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(50, 200))
def test_the_samples_of_a_step_are_the_same_however_they_are_divided(
    lengths: list[int], size: int, processes: int, at_once: int, limit: int
) -> None:
    plain = steps(lengths, size=size, epochs=2)
    divided = steps(lengths, size=size, epochs=2, processes=processes, at_once=at_once)
    packed = steps(lengths, size=size, epochs=2, processes=processes, max_tokens=limit)

    assert plain.total == divided.total == packed.total == 2 * -(-len(lengths) // size)
    for number in range(plain.total):
        expected = Counter(plain.samples(number))
        assert held(plain, number) == held(divided, number) == held(packed, number) == expected
        for run in (divided, packed):
            of = run.of(number)
            assert len(of) == processes
            assert len({len(step.packs) for step in of}) == 1  # every process runs as many forwards
        assert all(
            sum(lengths[sample - 100] for sample in own) <= limit for step in packed.of(number) for own in step.packs
        )
        assert all(len(own) <= at_once for step in divided.of(number) for own in step.packs)


def test_each_epoch_holds_each_sample_once_in_an_order_of_its_own() -> None:
    run = steps([5] * 20, size=8, epochs=3)
    epochs = [[sample for step in range(first, first + 3) for sample in run.samples(step)] for first in (0, 3, 6)]

    assert all(sorted(epoch) == list(range(100, 120)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [run.samples(step) for step in (4, 1)] == [epochs[1][8:16], epochs[0][8:16]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"epochs": 1.5}, 5), ({"epochs": 0.1}, 1), ({"max_steps": 2}, 2), ({"max_steps": 50}, 50)],
)
def test_how_many_steps_a_run_has(options: dict[str, Any], expected: int) -> None:
    run = steps([5] * 20, size=8, **options)

    assert run.total == expected
    assert len(list(run)) == len(run) == expected


def test_the_batches_of_a_step_come_in_the_order_of_the_processes() -> None:
    run = steps([5] * 20, size=8, processes=2)

    batches = list(run)

    assert len(batches) == len(run) == 6
    assert [step for batch in batches[2:4] for step in batch] == run.of(1)
