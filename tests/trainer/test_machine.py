from pathlib import Path
from typing import Any

import pytest
import torch

from phi3v.schema import UserError
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.machine import accumulation, attention, precision


def config(**options: Any) -> TrainConfig:
    return TrainConfig(data_dir=Path("data"), **options)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    def pretend(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, minor))

    return pretend


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_a_cpu_computes_in_float32_unless_asked() -> None:
    assert precision(config()) == "fp32"
    assert precision(config(bf16=True)) == "bf16"


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16")]
)
def test_a_gpu_computes_in_what_it_has(gpu: Any, capability: tuple[int, int], expected: str) -> None:
    gpu(*capability)

    assert precision(config()) == expected


@pytest.mark.parametrize("options", [{"bf16": True}, {"use_flash_attention": True}])
def test_bfloat16_on_volta_is_refused(gpu: Any, options: dict[str, bool]) -> None:
    gpu(7, 0)

    with pytest.raises(UserError, match=r"compute capability 7\.0\) has no bfloat16"):
        precision(config(**options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_flash_attention_without_a_gpu_is_refused() -> None:
    assert attention(config()) == "sdpa"
    with pytest.raises(UserError, match="needs a GPU"):
        attention(config(use_flash_attention=True))


def test_flash_attention_needs_its_package(gpu: Any) -> None:
    gpu(8, 0)

    with pytest.raises(UserError, match="flash-attn is not installed"):
        attention(config(use_flash_attention=True))


@pytest.mark.parametrize(("world", "per_gpu", "expected"), [("1", 1, 16), ("2", 4, 2), ("8", 2, 1)])
def test_accumulation_makes_up_the_global_batch(
    monkeypatch: pytest.MonkeyPatch, world: str, per_gpu: int, expected: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)

    assert accumulation(config(batch_size_per_gpu=per_gpu)) == expected


def test_a_batch_that_cannot_be_split_has_the_numbers_in_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")

    with pytest.raises(
        UserError, match="--batch_size 16 is not a multiple of 2 samples x 3 processes\n  fix: give a multiple of 6"
    ):
        accumulation(config(batch_size_per_gpu=2))
