from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from phi3v.schema import UserError
from phi3v.trainer.arguments import CHECKPOINTING, INSTEAD, training_arguments
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.strategy import Strategy


def arguments(folder: Path, *, total: int = 19, kind: str = "fp32", **options: Any) -> Any:
    config = TrainConfig(data_dir=folder, output_dir=folder / "run", **options)
    return training_arguments(config, total=total, per_epoch=7, kind=kind, strategy=Strategy("single", "one process"))


@pytest.mark.parametrize(
    ("total", "options", "expected"),
    [
        (19, {}, 1),  # the recipe's own 18 steps of UCF-101 never end its 50 steps of warm-up
        (6250, {}, 50),
        (19, {"warmup_steps": 7}, 7),
        (200, {}, 20),
        (200, {"warmup_ratio": 0.25}, 50),
    ],
)
def test_warm_up_fits_the_run(tmp_path: Path, total: int, options: dict[str, Any], expected: int) -> None:
    assert arguments(tmp_path, total=total, **options).warmup_steps == expected


def test_the_recipes_optimizer(tmp_path: Path) -> None:
    made = arguments(tmp_path, kind="bf16")

    assert (made.adam_beta1, made.adam_beta2, made.adam_epsilon, made.max_grad_norm) == (0.9, 0.95, 1e-7, 1.0)
    assert (made.weight_decay, made.learning_rate, made.max_steps) == (0.01, 4e-5, 19)
    assert made.bf16
    assert not made.fp16
    assert getattr(made, CHECKPOINTING)
    assert getattr(made, f"{CHECKPOINTING}_kwargs") == {"use_reentrant": False}


def test_fields_of_training_arguments_are_taken_with_their_types(tmp_path: Path) -> None:
    more = {
        "lr_scheduler_type": "cosine",
        "optim": "adafactor",
        "max_grad_norm": "0.5",
        "report_to": "tensorboard",
        "logging_first_step": "",
        "push_to_hub": "false",
        "lr_scheduler_kwargs": '{"num_cycles": 2}',
    }

    made = arguments(tmp_path, more=more)

    assert made.lr_scheduler_type == "cosine"
    assert made.optim == "adafactor"
    assert made.max_grad_norm == 0.5
    assert made.report_to == ["tensorboard"]
    assert made.logging_first_step is True
    assert made.push_to_hub is False
    assert made.lr_scheduler_kwargs == {"num_cycles": 2}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"lr_schedular_type": "cosine"},
            "no such option: --lr_schedular_type\n  fix: did you mean --lr_scheduler_type",
        ),
        ({"lora_rnk": "3"}, "no such option: --lora_rnk\n  fix: did you mean --lora_rank"),
        ({"xyzzy": "1"}, "no such option: --xyzzy"),
        ({"max_grad_norm": "much"}, "--max_grad_norm: invalid float value: 'much'"),
        ({"lr_scheduler_type": "sawtooth"}, "--lr_scheduler_type: .*sawtooth"),
        ({"gradient_accumulation_steps": "4"}, "decided by another flag here\n  fix: --batch_size"),
        ({"weight_decay": "0.1"}, "decided by another flag here\n  fix: --wd"),
        ({"save_strategy": "best"}, "--save_strategy best is none of no, steps, epoch"),
    ],
)
def test_what_cannot_be_taken_is_named(tmp_path: Path, more: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        arguments(tmp_path, more=more)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("steps", 500)),
        ({"save_steps": 3}, ("steps", 3)),
        ({"save_steps": 0}, ("no", 500)),
        ({"more": {"save_strategy": "no"}}, ("no", 500)),
        ({"more": {"save_strategy": "epoch"}}, ("steps", 7)),
    ],
)
def test_when_checkpoints_are_saved(tmp_path: Path, options: dict[str, Any], expected: tuple[str, int]) -> None:
    made = arguments(tmp_path, **options)

    assert (made.save_strategy, made.save_steps) == expected


@pytest.mark.parametrize("name", sorted(INSTEAD))
def test_a_field_that_is_decided_elsewhere_says_where(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        arguments(tmp_path, more={name: "1"})

    (flag,) = re.findall(r"^(?:--(\w+)|leave it out)", INSTEAD[name])
    assert not flag or flag.removeprefix("no_") in {field.name for field in fields(TrainConfig)}
    assert str(caught.value).endswith(INSTEAD[name])


def test_every_other_field_of_training_arguments_is_taken(tmp_path: Path) -> None:
    """Each with its own default: none is lost between the flags of ours and theirs."""
    for field in fields(TrainingArguments):
        if field.name in INSTEAD or not field.init or not isinstance(field.default, bool | int | float | str):
            continue
        if field.default == "" or field.name in {"save_strategy", "lr_scheduler_type", "optim"}:
            continue
        made = arguments(tmp_path, more={field.name: str(field.default)})
        plain = TrainingArguments(**{"output_dir": str(tmp_path), "use_cpu": True, field.name: field.default})

        assert getattr(made, field.name) == getattr(plain, field.name), field.name
