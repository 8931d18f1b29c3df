"""Which way a run is divided, and what is said where it cannot be."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from phi3v.schema import UserError
from phi3v.trainer import launch, strategy
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.strategy import Strategy, check_checkpoint, choose, explained, zero_settings


def config(**options: Any) -> TrainConfig:
    return TrainConfig(data_dir=Path(), **options)


@pytest.mark.parametrize(
    ("options", "count", "on_gpu", "expected"),
    [
        ({}, 1, True, "single"),
        ({}, 8, True, "zero2"),
        ({"freeze_vision_model": True}, 8, True, "zero2"),
        ({"use_lora": True}, 8, True, "ddp"),
        ({"use_qlora": True}, 8, True, "ddp"),
        ({}, 2, False, "ddp"),
        ({"deepspeed": "none"}, 8, True, "ddp"),
        ({"deepspeed": "zero3"}, 1, True, "zero3"),
        ({"offload_optimizer": True}, 1, True, "zero2"),
        ({"offload_optimizer": True, "use_lora": True, "deepspeed": "zero2"}, 2, True, "zero2"),
        ({"fsdp": True}, 8, True, "fsdp2"),
    ],
)
def test_the_default_is_what_fits(options: dict[str, Any], count: int, on_gpu: bool, expected: str) -> None:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed: its part of the choice is not shown")

    assert choose(config(**options), count=count, on_gpu=on_gpu).name == expected


def test_without_deepspeed_all_weights_take_fsdp2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "find_spec", lambda _: None)

    chosen = choose(config(), count=8, on_gpu=True)

    assert (chosen.name, chosen.settings) == ("fsdp2", None)
    assert "deepspeed is not installed" in chosen.reason


def test_the_shipped_zero2_has_the_recipes_values() -> None:
    settings = zero_settings("zero2")

    assert settings["zero_optimization"] == {
        "stage": 2,
        "allgather_partitions": True,
        "allgather_bucket_size": 5e8,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": 5e8,
        "contiguous_gradients": True,
        "round_robin_gradients": True,
    }
    assert settings["fp16"] == {
        "enabled": "auto",
        "loss_scale": 0,
        "loss_scale_window": 1000,
        "initial_scale_power": 16,
        "hysteresis": 2,
        "min_loss_scale": 1,
    }
    assert zero_settings("zero3")["zero_optimization"]["stage"] == 3


def test_the_optimizer_goes_to_the_cpu_where_asked() -> None:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed: the offload is not shown")

    chosen = choose(config(deepspeed="zero3", offload_optimizer=True), count=2, on_gpu=True)

    assert chosen.settings is not None
    assert chosen.settings["zero_optimization"]["offload_optimizer"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("[]", "names no ZeRO stage"),
        ('{"zero_optimization": {"stage": 0}}', "names no ZeRO stage"),
        ('{"zero_optimization": {"stage": 2}, "optimizer": {}}', '"optimizer" is decided by --optim'),
        ('{"zero_optimization": {"stage": 2}, "train_batch_size": 8}', "is decided by --batch_size here"),
    ],
)
def test_a_file_that_is_none_of_deepspeeds_or_decides_too_much_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "own.json").write_text(content)

    with pytest.raises(UserError, match=message):
        zero_settings(str(tmp_path / "own.json"))


def test_a_file_of_ones_own_is_taken(tmp_path: Path) -> None:
    own = {"zero_optimization": {"stage": 1}, "train_batch_size": "auto"}
    (tmp_path / "own.json").write_text(json.dumps(own))

    assert zero_settings(str(tmp_path / "own.json")) == own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deepspeed": "zero2", "fsdp": True}, "--deepspeed zero2 and --fsdp exclude each other"),
        ({"deepspeed": "zero3", "use_qlora": True}, "does not divide weights of 4 bits"),
        ({"offload_optimizer": True, "fsdp": True}, "--offload_optimizer is DeepSpeed's"),
        ({"nproc": "many"}, "--nproc many is no number of processes"),
        ({"nproc": "0"}, "--nproc 0 is no number of processes"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**options)


def test_a_checkpoint_goes_on_only_as_it_was_divided(tmp_path: Path) -> None:
    zero, ddp = Strategy("zero2", "", {"zero_optimization": {"stage": 2}}), Strategy("ddp", "")
    check_checkpoint(tmp_path, ddp, 4)
    with pytest.raises(UserError, match=r"a run without DeepSpeed, and this run is divided by ZeRO-2\n  fix: .*none"):
        check_checkpoint(tmp_path, zero, 2)
    (tmp_path / "global_step4").mkdir()
    for rank in (0, 1):
        (tmp_path / f"global_step4/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()

    check_checkpoint(tmp_path, zero, 2)
    with pytest.raises(UserError, match=r"saved by 2 processes with DeepSpeed, and this run has 8\n  fix: start 2"):
        check_checkpoint(tmp_path, zero, 8)
    with pytest.raises(UserError, match="was saved by DeepSpeed, and this run is divided by DDP"):
        check_checkpoint(tmp_path, ddp, 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Timed out waiting 1800000ms for recv operation to complete", "has waited too long"),
        ("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3)", "has waited too long"),
        ("[pair.cc:561] Connection closed by peer [127.0.0.1]:39308", "another process is gone"),
        ("NCCL communicator was aborted", "another process is gone"),
    ],
)
def test_an_error_of_a_collective_is_explained(text: str, told: str) -> None:
    error = explained(RuntimeError(text))

    assert error is not None
    assert told in str(error)
    assert "fix: " in str(error)


def test_a_process_that_does_not_come_is_waited_for_as_long_as_asked_and_told() -> None:
    """By torch's own error."""
    with pytest.raises(RuntimeError) as raised:
        torch.distributed.TCPStore("127.0.0.1", 0, world_size=2, is_master=True, timeout=timedelta(seconds=1))

    error = explained(raised.value)
    assert error is not None
    assert "this process has waited too long for another one" in str(error)


def test_another_error_stays_what_it_is() -> None:
    assert explained(RuntimeError("CUDA out of memory")) is None


def test_how_many_processes_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for gpus, wish, expected in ((0, "auto", 1), (0, "2", 2), (1, "auto", 1), (4, "auto", 4), (4, "2", 2)):
        monkeypatch.setattr("torch.cuda.device_count", lambda gpus=gpus: gpus)
        assert launch.count(wish) == expected
    with pytest.raises(UserError, match="--nproc 8, and there are 4 GPUs"):
        launch.count("8")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert launch.count("8") == 1


@pytest.mark.parametrize("options", [{"use_lora": True}, {"fsdp": True}, {"deepspeed": "none"}], ids=str)
def test_the_optimizer_on_the_cpu_is_deepspeeds_alone(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--offload_optimizer is DeepSpeed's"):
        config(offload_optimizer=True, **options)
