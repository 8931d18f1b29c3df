from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from phi3v.schema import UserError
from phi3v.trainer.data import Records
from phi3v.trainer.encode import Encoder
from phi3v.trainer.fit import Fits, Policy, encode
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.model.tiny import tiny_processor
from phi3v.trainer.step_data import Failure, StepData
from phi3v.trainer.steps import Step

PAD = 768


@pytest.fixture
def data(grey_levels: Callable[[int], Path]) -> Path:
    return grey_levels(6)


def opened(data: Path, *, packed: bool = False, on_error: Policy = "fail") -> tuple[StepData, Records, Encoder, Fits]:
    processor = tiny_processor()
    processor.image_processor.num_crops = 4
    records, encoder, fits = Records([data / "grey_train.jsonl"]), Encoder(processor, data / "images"), Fits()
    list(fits.measure(records, encoder, max_length=900, on_error=on_error))
    made = StepData(records, encoder, fits, packed=packed, on_error=on_error, pad_id=PAD)
    return made, records, encoder, fits


@pytest.mark.parametrize("packed", [False, True])
def test_a_step_holds_its_samples_as_they_fit_and_counts_them(data: Path, packed: bool) -> None:
    made, records, encoder, fits = opened(data, packed=packed)
    step = made[Step(3, ((4, 1), (2,)))]

    examples = {number: encode(records[number], encoder, fits[number]) for number in (4, 1, 2)}

    assert (step.step, step.samples, step.failures) == (3, [4, 1, 2], [])
    assert step.labelled == sum(label != IGNORED for own in examples.values() for label in own.labels)
    assert step.tokens == sum(fits.tokens[number] for number in examples)
    longest = max(fits.tokens[4], fits.tokens[1])
    assert step.places == (step.tokens if packed else 2 * longest + fits.tokens[2])
    assert made.ids(step) == ["g-4", "g-1", "g-2"]
    for batch, numbers in zip(step.batches, [(4, 1), (2,)], strict=True):
        kept = batch["input_ids"][batch["attention_mask"].bool()] if not packed else batch["input_ids"][0]
        assert kept.tolist() == [token for number in numbers for token in examples[number].input_ids]
        crops = [examples[number].images for number in numbers]
        assert torch.equal(batch["pixel_values"], torch.cat([own["pixel_values"] for own in crops if own]))


@pytest.mark.parametrize("packed", [False, True])
def test_a_forward_without_samples_teaches_nothing(data: Path, packed: bool) -> None:
    made, *_ = opened(data, packed=packed)

    step = made[Step(0, ((0,), ()))]

    assert step.samples == [0]
    assert step.batches[1]["input_ids"].tolist() == [[PAD, PAD]]
    assert step.batches[1]["labels"].tolist() == [[IGNORED, IGNORED]]
    assert step.places == step.tokens + 2


def test_no_picture_is_opened_before_its_step(data: Path) -> None:
    made, *_ = opened(data)
    picture = data / "images/3.png"
    picture.unlink()

    assert made[Step(0, ((2,),))].samples == [2]
    with pytest.raises(UserError, match=r"3\.png: cannot read this image of record 'g-3'"):
        made[Step(1, ((3,),))]


def test_what_cannot_be_read_leaves_its_place_empty(data: Path) -> None:
    made, *_ = opened(data, on_error="skip")
    (data / "images/3.png").write_bytes(b"")

    step = made[Step(7, ((3,), (2, 3)))]

    assert step.samples == [2]
    assert [failure[:2] for failure in step.failures] == [(7, 3), (7, 3)]
    assert all(isinstance(failure, Failure) and "g-3" in failure.reason for failure in step.failures)
    assert step.batches[0]["input_ids"].tolist() == [[PAD, PAD]]


def test_a_file_that_changed_since_it_was_checked_is_an_error(data: Path) -> None:
    made, *_ = opened(data)
    path = data / "grey_train.jsonl"
    path.write_text(path.read_text().replace('"How bright?"', '"How <|end|>?"'))

    with pytest.raises(UserError, match=r"holds the control token '<\|end\|>'"):
        made[Step(0, ((0,),))]
