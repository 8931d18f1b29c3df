import pytest

from phi3v.trainer.metrics import is_correct, normalise


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(" Yes. ", "yes"), ("BabyCrawling", "babycrawling"), ("3.5", "3.5"), ("...", ""), ("A .", "a ")],
)
def test_the_recipes_normaliser(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


def test_any_accepted_answer_is_right() -> None:
    assert is_correct("two.", ["2", "Two"])
    assert not is_correct("three", ["2", "Two"])
    assert not is_correct("two", [])
