import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.schema.tokens import CONTROL_TOKENS, crop_grid, image_tokens

SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("width", "height", "num_crops", "tokens"),
    [
        (336, 336, 1, 313),
        (320, 240, 4, 757),
        (320, 240, 16, 1921),
        (1000, 1000, 16, 2509),
        (1700, 2200, 16, 2509),
        (2200, 1700, 16, 2509),
    ],
)
def test_tokens_published_for_common_sizes(width: int, height: int, num_crops: int, tokens: int) -> None:
    assert image_tokens(width, height, num_crops) == tokens


@pytest.mark.parametrize(("num_crops", "most"), [(1, 313), (4, 781), (16, 2653)])
def test_the_most_tokens_of_an_image(num_crops: int, most: int) -> None:
    sizes = [(10 * long, 10 * short) for long in range(1, 60) for short in range(1, 60)]

    assert max(image_tokens(*size, num_crops) for size in sizes if max(size) < 100 * min(size)) == most


@given(SIDES, SIDES, st.integers(1, 16))
def test_the_grid_is_the_finest_that_fits(width: int, height: int, num_crops: int) -> None:
    try:
        rows, columns = crop_grid(width, height, num_crops)
    except ValueError:
        assert max(width, height) > 300 * min(width, height)
        return
    long, short = max(rows, columns), min(rows, columns)

    assert rows * columns <= num_crops
    assert (rows >= columns) == (height > width) or rows == columns
    # Counted out: with one more crop along the longer side, the shorter would need too many.
    ratio = max(width, height) / min(width, height)
    candidates = [size for size in range(1, 17) if size * -(-size // ratio) <= num_crops]
    assert long == max(candidates)
    assert short <= long


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (5000, 1)])
def test_shapes_without_pixels_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels"):
        image_tokens(*size, 4)


@pytest.mark.parametrize("num_crops", [0, 17])
def test_num_crops_has_a_range(num_crops: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 16, not {num_crops}"):
        image_tokens(100, 100, num_crops)


def test_control_tokens_are_the_released_tokenizers(shared: Path) -> None:
    tokenizer = json.loads((shared / "realdata/tokenizers/phi35_vision/tokenizer.json").read_text())

    assert sorted(CONTROL_TOKENS) == sorted(token["content"] for token in tokenizer["added_tokens"])
