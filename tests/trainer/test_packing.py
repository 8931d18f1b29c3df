"""How the samples of a step are divided: against every other way there is, where there are few."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.trainer.packing import PICTURE, QUADRATIC, Pack, Sizes, deal, divide, level, pack

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)
WORK = st.lists(st.integers(1, 100), min_size=1, max_size=6)


def sizes(tokens: Sequence[int], pictures: Sequence[int] | None = None) -> Sizes:
    return Sizes(tokens, pictures or [0] * len(tokens))


def loads(dealt: list[tuple[Pack, ...]], work: Sequence[int]) -> list[list[int]]:
    """Return the work of each forward of each process."""
    return [[sum(work[sample] for sample in own) for own in packs] for packs in dealt]


def every_deal(work: Sequence[int], processes: int) -> Iterator[list[list[int]]]:
    """Yield every way to give each process as many forwards, in every order."""
    each = math.ceil(len(work) / processes)
    full = [*work, *[0] * (each * processes - len(work))]
    for order in set(permutations(full)):
        yield [list(order[rank * each : (rank + 1) * each]) for rank in range(processes)]


@given(LENGTHS)
def test_packs_are_few(lengths: list[int]) -> None:
    limit = 100
    own = dict(enumerate(lengths))

    packs = pack(own, limit)

    assert sorted(sample for one in packs for sample in one) == sorted(own)
    fewest = -(-sum(lengths) // limit)  # no packing needs fewer
    assert len(packs) <= 11 / 9 * max(fewest, 1) + 6 / 9 + sum(length > limit / 2 for length in lengths)
    fullness = sorted(sum(own[sample] for sample in one) for one in packs)
    assert len(packs) < 2 or fullness[0] + fullness[1] > limit  # no two of them would have gone into one


@given(WORK, st.integers(1, 3))
def test_no_deal_waits_less_where_processes_meet_in_every_forward(work: list[int], processes: int) -> None:
    dealt = deal([(number,) for number in range(len(work))], work, processes)

    own = loads(dealt, work)

    assert sum(map(max, zip(*own, strict=True))) == min(
        sum(map(max, zip(*other, strict=True))) for other in every_deal(work, processes)
    )


@given(WORK, st.integers(1, 3))
def test_a_process_has_at_most_a_third_more_than_in_the_best_deal(work: list[int], processes: int) -> None:
    dealt = deal([(number,) for number in range(len(work))], work, processes)

    best = min(max(map(sum, other)) for other in every_deal(work, processes))

    assert max(map(sum, loads(dealt, work))) <= 4 / 3 * best


@given(LENGTHS, st.integers(1, 5))
def test_two_processes_differ_by_no_more_than_two_forwards_of_one_round(work: list[int], processes: int) -> None:
    dealt = deal([(number,) for number in range(len(work))], work, processes)

    own = loads(dealt, work)

    gaps = [max(of) - min(of) for of in zip(*own, strict=True)]
    assert max(map(sum, own)) - min(map(sum, own)) <= max(gaps)
    assert sorted(sample for packs in dealt for one in packs for sample in one) == list(range(len(work)))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 3))
def test_packs_are_about_as_full_as_the_best_ones(lengths: list[int], count: int) -> None:
    made = level(range(len(lengths)), sizes(lengths), count, limit=1000)
    assert made is not None

    def fullest(places: Sequence[int]) -> int:
        return max(
            sum(length for length, place in zip(lengths, places, strict=True) if place == own) for own in range(count)
        )

    best = min(map(fullest, product_of(count, len(lengths))))
    assert max(sum(lengths[sample] for sample in own) for own in made) <= (4 / 3 - 1 / (3 * count)) * best


def product_of(count: int, length: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to put so many things into so many places."""
    for number in range(count**length):
        yield tuple(number // count**place % count for place in range(length))


@given(LENGTHS, st.integers(1, 6), st.integers(50, 200))
def test_no_pack_is_over_the_limit_and_none_is_more_than_first_fit_needs_rounds_for(
    lengths: list[int], processes: int, limit: int
) -> None:
    dealt = divide(range(len(lengths)), sizes(lengths), processes, limit=limit)

    packs = [own for packs in dealt for own in packs if own]
    assert max(sum(lengths[sample] for sample in own) for own in packs) <= limit
    assert sorted(sample for own in packs for sample in own) == list(range(len(lengths)))
    rounds = math.ceil(len(pack(dict(enumerate(lengths)), limit)) / processes)
    assert {len(packs) for packs in dealt} == {rounds}


def test_packs_that_cannot_be_level_are_those_of_first_fit() -> None:
    lengths = [5, 4, 4, 3, 3]  # 5 and 4, 4 and 4: then a 3 finds no room, where 5 + 4 and 4 + 3 + 3 had some

    (packs,) = divide(range(5), sizes(lengths), 1, limit=10)

    assert level(range(5), sizes(lengths), 2, 10) is None
    assert sorted(packs) == sorted(pack(dict(enumerate(lengths)), 10))


def test_three_packs_for_four_processes_become_four() -> None:
    """First fit fills three, and a process would do nothing but wait."""
    dealt = divide(range(8), sizes([300] * 8), 4, limit=900)

    assert [[len(own) for own in packs] for packs in dealt] == [[2], [2], [2], [2]]


def test_like_lengths_share_a_padded_forward() -> None:
    lengths = [100, 10, 90, 20, 80, 30]

    (packs,) = divide(range(6), sizes(lengths), 1, at_once=2)

    assert sorted(map(sorted, packs)) == [[0, 2], [1, 3], [4, 5]]
    assert sum(len(own) * max(lengths[sample] for sample in own) for own in packs) == 2 * (100 + 80 + 20)


def test_work_counts_tokens_attention_and_pictures() -> None:
    own = sizes([1000, 378], [0, 3])

    assert own.work([0]) == 1000 + 1_000_000 // QUADRATIC
    assert own.work([0, 1]) == 1378 + (1_000_000 + 378 * 378) // QUADRATIC + 3 * PICTURE
    assert own.work([0, 1], padded=True) == 2000 + 2_000_000 // QUADRATIC + 3 * PICTURE
    assert own.work([]) == own.work([], padded=True) == 0


def test_the_same_samples_in_another_order_are_divided_alike() -> None:
    chance = random.Random(1)
    own = sizes([chance.randint(10, 500) for _ in range(40)], [chance.randint(0, 17) for _ in range(40)])
    shuffled = chance.sample(range(40), 40)

    for options in ({"at_once": 3}, {"limit": 900}):
        assert divide(shuffled, own, 4, **options) == divide(range(40), own, 4, **options)


@pytest.mark.parametrize("limit", [None, 6000])
def test_slow_processes_are_rare_on_a_mix_of_texts_pages_and_clips(limit: int | None) -> None:
    """Dealt as they come, the slowest of 8 processes does half as much again as their mean."""
    chance = random.Random(0)
    kinds = {"text": (150, 0), "meme": (900, 5), "page": (2560, 17), "clip": (6130, 40)}
    drawn = [kinds[chance.choices(list(kinds), (3, 4, 4, 1))[0]] for _ in range(64)]
    own = Sizes([tokens + chance.randint(0, 60) for tokens, _ in drawn], [pictures for _, pictures in drawn])
    limit = limit and max(limit, *own.tokens)

    def excess(dealt: list[tuple[Pack, ...]]) -> float:
        work = [sum(own.work(one) for one in packs) for packs in dealt]
        return max(work) / (sum(work) / len(work)) - 1

    as_they_come = [tuple((sample,) for sample in range(rank, 64, 8)) for rank in range(8)]
    assert excess(as_they_come) > 0.25
    assert excess(divide(range(64), own, 8, limit=limit)) < 0.12
