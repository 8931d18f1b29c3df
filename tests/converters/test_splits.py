import pytest

from phi3v.converters.splits import validation_groups


@pytest.mark.parametrize(
    ("groups", "fraction", "expected"),
    [
        (range(8, 26), 0.2, {23, 24, 25}),  # UCF-101's 18 training groups: a fifth is 3.6
        ([5, 5, 9], 0.2, {9}),  # at least one
        ([5], 0.9, set()),  # a lone group stays in training
        ([], 0.2, set()),
        (range(10), 0.0, set()),
        (range(100), 0.29, set(range(71, 100))),  # 0.29 * 100 is 28.999... as a float
        ([1, 2], 0.99, {2}),
    ],
)
def test_the_highest_numbered_groups(groups: list[int], fraction: float, expected: set[int]) -> None:
    assert validation_groups(groups, fraction) == expected
