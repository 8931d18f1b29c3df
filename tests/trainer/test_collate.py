from typing import Literal

import pytest
import torch

from phi3v.trainer.collate import collate, pack
from phi3v.trainer.encode import Example
from phi3v.trainer.model.modeling import IGNORED

PAD = 99


def example(length: int, crops: int = 0) -> Example:
    images = None
    if crops:
        images = {
            "pixel_values": torch.full((crops, 3, 2, 2), length, dtype=torch.uint8),
            "crop_counts": torch.tensor([crops]),
            "image_sizes": torch.tensor([[336, 336 * crops]]),
        }
    ids = list(range(1, length + 1))
    return Example(id="e", input_ids=ids, labels=[IGNORED, *ids[1:]], images=images, answers=())


def test_shorter_examples_are_padded_on_the_right() -> None:
    batch = collate([example(2), example(4)], pad_id=PAD)

    assert batch["input_ids"].tolist() == [[1, 2, PAD, PAD], [1, 2, 3, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 2, IGNORED, IGNORED], [IGNORED, 2, 3, 4]]


def test_or_on_the_left_for_generation() -> None:
    batch = collate([example(2), example(3)], pad_id=PAD, side="left")

    assert batch["input_ids"].tolist() == [[PAD, 1, 2], [1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_real_token_with_the_pads_id_is_not_masked(side: Literal["left", "right"]) -> None:
    """Pad and end of text are one id."""
    batch = collate([example(3), example(1)], pad_id=2, side=side)

    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 1]


def test_images_lie_end_to_end() -> None:
    batch = collate([example(2, crops=3), example(4), example(3, crops=1)], pad_id=PAD)

    assert batch["pixel_values"].shape == (4, 3, 2, 2)
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [2, 2, 2, 3]
    assert batch["crop_counts"].tolist() == [3, 1]
    assert batch["image_sizes"].tolist() == [[336, 1008], [336, 336]]


def test_a_batch_without_images_has_no_pixels() -> None:
    assert set(collate([example(1)], pad_id=PAD)) == {"input_ids", "attention_mask", "labels"}


def test_a_pack_lays_examples_end_to_end() -> None:
    images = {"pixel_values": torch.ones(2, 3, 336, 336, dtype=torch.uint8), "crop_counts": torch.tensor([2])}
    first = Example(id="a", input_ids=[1, -1, 5], labels=[-100, -100, 5], images=images, answers=())
    second = Example(id="b", input_ids=[1, 7], labels=[-100, 7], images=None, answers=())

    row = pack([first, second, first])

    assert row["input_ids"].tolist() == [[1, -1, 5, 1, 7, 1, -1, 5]]
    assert row["labels"].tolist() == [[-100, -100, 5, -100, 7, -100, -100, 5]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert row["crop_counts"].tolist() == [2, 2]
    assert row["pixel_values"].shape == (4, 3, 336, 336)
    assert "attention_mask" not in row
    assert row.keys() - pack([second]).keys() == {"pixel_values", "crop_counts"}
