"""The recipe's result tables as presets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from phi3v.schema import UserError
from phi3v.trainer.arguments import FULL_WARMUP, training_arguments
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.presets import PRESETS, Scored, named, table, unlike
from phi3v.trainer.strategy import Strategy


def config(name: str) -> TrainConfig:
    return TrainConfig(data_dir=Path("data"), preset=name, **PRESETS[name].settings)


def test_every_row_with_its_published_score() -> None:
    assert {name: preset.published for name, preset in PRESETS.items()} == {
        "docvqa-full-bf16": 83.65,
        "docvqa-full-fp16": 82.60,
        "docvqa-frozen-bf16": 79.19,
        "docvqa-frozen-fp16": 78.74,
        "docvqa-lora-bf16": 82.46,
        "docvqa-lora-fp16": 82.34,
        "docvqa-qlora-bf16": 81.85,
        "docvqa-qlora-fp16": 81.85,
        "hateful-full-bf16": 86.4,
        "hateful-full-fp16": 85.4,
        "hateful-frozen-bf16": 79.4,
        "hateful-frozen-fp16": 78.6,
        "hateful-lora-bf16": 86.6,
        "hateful-lora-fp16": 85.2,
        "hateful-qlora-bf16": 84.0,
        "hateful-qlora-fp16": 83.8,
        "nlvr2-full-bf16": 89.40,
        "nlvr2-frozen-bf16": 89.20,
    }


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_configuration_that_can_be_made(name: str) -> None:
    made = config(name)

    assert (made.batch_size, made.num_crops, made.max_new_tokens) == (64, 16, 64)
    assert made.adapters == ("lora" in name)
    assert made.use_qlora == ("qlora" in name)
    assert made.freeze_vision_model == ("frozen" in name)
    assert (made.bf16, made.fp16) == ("bf16" in name, "fp16" in name)


def test_the_ranks_and_rates_of_adapters() -> None:
    docvqa, hateful = config("docvqa-lora-bf16"), config("hateful-qlora-fp16")

    assert (docvqa.lora_rank, docvqa.lora_rank * docvqa.lora_alpha_ratio) == (32, 16)
    assert (hateful.lora_rank, hateful.lora_rank * hateful.lora_alpha_ratio) == (128, 256)
    assert (docvqa.learning_rate, hateful.learning_rate) == (2e-4, 2e-4)


@pytest.mark.parametrize(("total", "expected"), [(18, 1), (124, 12), (5000, FULL_WARMUP)])
def test_warming_up_ends_in_short_runs(total: int, expected: int) -> None:
    made = replace(config("docvqa-full-bf16"), bf16=False)

    arguments = training_arguments(
        made, total=total, per_epoch=total, kind="fp32", strategy=Strategy("single", "one process")
    )

    assert arguments.warmup_steps == expected < total


def test_what_is_alike_is_not_called_unlike() -> None:
    assert unlike(named("docvqa-lora-bf16"), config("docvqa-lora-bf16"), Scored(("docvqa",), 200, 200)) == []


def test_what_differs_is_told() -> None:
    made = replace(config("docvqa-lora-bf16"), learning_rate=1e-4, max_steps=5, eval_steps=2)

    told = " ".join(unlike(named("docvqa-lora-bf16"), made, Scored(("ucf101",), 10, 24)))

    assert "data: scored on ucf101, the recipe on docvqa (nielsr/docvqa_1200_examples, test)" in told
    assert "protocol: 10 of 24 records drawn" in told
    assert "settings: --learning_rate 0.0001, the recipe 0.0002" in told
    assert "the weights were chosen by this score" in told
    assert "--max_steps 5" in told


def test_another_number_of_records_is_another_set() -> None:
    (told,) = unlike(named("nlvr2-full-bf16"), config("nlvr2-full-bf16"), Scored(("nlvr2",), 6982, 6982))

    assert told.startswith("data: 6982 records, the recipe's 500")


def test_a_name_that_is_none_gets_a_hint() -> None:
    with pytest.raises(UserError, match="no such preset: docvqa-lora-bf61\n  fix: did you mean docvqa-lora-bf16?"):
        named("docvqa-lora-bf61")
    with pytest.raises(UserError, match="--list_presets"):
        named("x")


def test_the_table_has_a_row_for_each() -> None:
    head, *rows = table()

    assert [row[0] for row in rows] == list(PRESETS)
    assert {len(row) for row in rows} == {len(head)}
