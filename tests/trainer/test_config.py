import json
from pathlib import Path
from typing import Any

import pytest

from phi3v.schema import UserError
from phi3v.trainer.config import TrainConfig

# The original recipe's flags with their defaults.
RECIPE = {
    "model_name_or_path": "microsoft/Phi-3.5-vision-instruct",
    "use_flash_attention": False,
    "bf16": False,
    "use_lora": False,
    "batch_size": 16,
    "batch_size_per_gpu": 1,
    "num_train_epochs": 1.0,
    "learning_rate": 4e-5,
    "wd": 0.01,
    "tqdm": True,
    "lora_rank": 64,
    "lora_alpha_ratio": 2.0,
    "lora_dropout": 0.0,
    "freeze_vision_model": False,
}


def test_the_recipes_flags_keep_their_names_and_defaults() -> None:
    config = TrainConfig(data_dir=Path("data"))

    assert {name: getattr(config, name) for name in RECIPE} == RECIPE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch_size 0 is out of range\n  fix: give 1 or more"),
        ({"num_crops": 17}, "--num_crops 17 is out of range\n  fix: give 1 to 16"),
        ({"learning_rate": float("nan")}, "--learning_rate nan is out of range"),
        ({"num_train_epochs": float("inf")}, "--num_train_epochs inf is out of range"),
        ({"lora_dropout": 1.5}, "--lora_dropout 1.5 is out of range"),
        ({"seed": -1}, "--seed -1 is out of range"),
        ({"num_train_epochs": 0}, "--num_train_epochs 0 is out of range"),
        ({"lora_rank": -1}, "--lora_rank -1 is out of range"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(data_dir=Path("data"), **options)


def test_it_is_saved_as_json(tmp_path: Path) -> None:
    TrainConfig(data_dir=Path("data"), use_lora=True).save(tmp_path)

    saved = json.loads((tmp_path / "train_config.json").read_text())
    assert saved["data_dir"] == "data"
    assert saved["use_lora"] is True
    assert saved["learning_rate"] == 4e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bf16": True, "fp16": True}, "--bf16 and --fp16 exclude each other"),
        ({"overwrite": True, "resume": "auto"}, "--overwrite and --resume exclude each other"),
        ({"use_flash_attention": True, "attention": "eager"}, "--attention eager exclude each other"),
        ({"max_tokens_per_gpu": 9, "batch_size_per_gpu": 2}, "--max_tokens_per_gpu and --batch_size_per_gpu exclude"),
    ],
)
def test_settings_that_exclude_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(data_dir=Path("data"), **options)
