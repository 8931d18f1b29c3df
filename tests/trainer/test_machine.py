from pathlib import Path
from typing import Any

import pytest
import torch

from phi3v.schema import UserError
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.machine import accumulation, check_build, machine


def config(**options: Any) -> TrainConfig:
    return TrainConfig(data_dir=Path("data"), **options)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    def pretend(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, minor))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "sm_75", "sm_80", "sm_90"])

    return pretend


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_a_cpu_computes_in_float32_unless_asked() -> None:
    assert machine(config()).kind == "fp32"
    assert machine(config(bf16=True)).kind == "bf16"


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16")]
)
def test_a_gpu_computes_in_what_it_has(gpu: Any, capability: tuple[int, int], expected: str) -> None:
    gpu(*capability)

    assert machine(config()).kind == expected


def test_a_gpu_computes_in_what_is_asked(gpu: Any) -> None:
    gpu(9, 0)

    assert machine(config(fp16=True)).kind == "fp16"
    assert machine(config(fp32=True)).kind == "fp32"


def test_bfloat16_on_volta_is_refused(gpu: Any) -> None:
    gpu(7, 0)

    with pytest.raises(UserError, match=r"compute capability 7\.0\) has no bfloat16"):
        machine(config(bf16=True))


CUDA_12_6 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "built_for", "message"),
    [
        ((7, 0), CUDA_12_6, None),
        (
            (7, 0),
            CUDA_13,
            r"no kernels for this GPU of compute capability 7\.0, only for sm_75, .*\n  fix: .* CUDA 12\.6",
        ),
        ((6, 1), CUDA_13, r"CUDA 12\.6"),
        ((7, 5), CUDA_13, None),
        ((8, 9), CUDA_13, None),  # by the kernels of 8.6
        ((12, 0), CUDA_12_6, r"a newer CUDA"),
        ((12, 1), CUDA_13, None),
        ((12, 0), [*CUDA_12_6, "compute_90"], None),  # compiled by the driver
        ((9, 0), ["sm_90a"], None),
        ((10, 3), ["sm_90", "sm_100a"], r"a newer CUDA"),
        ((9, 0), [], None),  # a build that does not say
    ],
)
def test_a_gpu_without_kernels_in_this_build_of_torch_is_refused(
    capability: tuple[int, int], built_for: list[str], message: str | None
) -> None:
    if message is None:
        check_build(capability, built_for)
        return
    with pytest.raises(UserError, match=message):
        check_build(capability, built_for)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fp16": True}, "--fp16 needs a GPU"),
        ({"use_flash_attention": True}, "FlashAttention-2 needs a GPU"),
        ({"attention": "flash_attention_2"}, "FlashAttention-2 needs a GPU"),
    ],
)
def test_a_cpu_refuses_what_it_cannot(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        machine(config(**options))


@pytest.mark.parametrize(
    ("capability", "installed", "options", "message"),
    [
        ((8, 0), False, {}, "FlashAttention-2 is not installed"),
        ((8, 0), True, {"fp16": True}, "FlashAttention-2 runs here in bf16 only, not in fp16"),
        ((7, 5), True, {}, "FlashAttention-2 needs a GPU of compute capability 8, and this has 7"),
    ],
)
def test_flash_attention_that_cannot_run_is_refused_with_the_reason(
    gpu: Any,
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    installed: bool,
    options: dict[str, Any],
    message: str,
) -> None:
    gpu(*capability)
    monkeypatch.setattr("phi3v.trainer.machine.find_spec", lambda _: installed or None)

    with pytest.raises(UserError, match=message):
        machine(config(use_flash_attention=True, **options))
    automatic = machine(config(**options))
    assert (automatic.attention, automatic.reason) == ("sdpa", message)


def test_flash_attention_is_chosen_where_it_can_run(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(8, 0)
    monkeypatch.setattr("phi3v.trainer.machine.find_spec", lambda _: True)

    assert machine(config()).attention == "flash_attention_2"
    assert machine(config(attention="eager")).attention == "eager"


def test_several_gpus_in_one_process_are_refused(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(8, 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    with pytest.raises(UserError, match="one process sees 2 GPUs\n  fix: leave --nproc out"):
        machine(config())


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
