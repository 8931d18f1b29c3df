"""What this machine can do, and what follows for a run."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Literal

import torch

from phi3v.schema import UserError
from phi3v.trainer.config import TrainConfig

Precision = Literal["fp32", "bf16", "fp16"]
AMPERE = 8  # compute capability of the first GPUs with bfloat16; torch's own question also counts emulation


def processes() -> int:
    """Return how many processes take part, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Return whether this process is the one that speaks, scores and writes."""
    return os.environ.get("RANK", "0") == "0"


def precision(config: TrainConfig) -> Precision:
    """Return what to compute in: as asked, else bfloat16 where the GPU has it, float16 on other GPUs, float32 on a CPU.

    Raises:
        UserError: bfloat16 is asked for, and the GPU lacks it.
    """
    if not torch.cuda.is_available():
        return "bf16" if config.bf16 else "fp32"
    major, minor = torch.cuda.get_device_capability()
    if major >= AMPERE:
        return "bf16"
    if config.bf16 or config.use_flash_attention:
        fix = "leave --bf16 and --use_flash_attention out: float16 is used"
        raise UserError(f"this GPU (compute capability {major}.{minor}) has no bfloat16", fix=fix)
    return "fp16"


def attention(config: TrainConfig) -> str:
    """Return the attention implementation.

    Raises:
        UserError: FlashAttention is asked for where it cannot run.
    """
    if not config.use_flash_attention:
        return "sdpa"
    if not torch.cuda.is_available():
        raise UserError("--use_flash_attention needs a GPU, and torch sees none", fix="leave it out: sdpa is used")
    if find_spec("flash_attn") is None:
        raise UserError(
            "flash-attn is not installed", fix="pip install flash-attn --no-build-isolation, or leave the flag out"
        )
    return "flash_attention_2"


def accumulation(config: TrainConfig) -> int:
    """Return how many forwards make one optimizer step.

    Raises:
        UserError: the global batch cannot be split evenly; the message has the numbers.
    """
    at_once = config.batch_size_per_gpu * processes()
    if config.batch_size % at_once:
        split = f"{config.batch_size_per_gpu} samples x {processes()} processes"
        raise UserError(
            f"--batch_size {config.batch_size} is not a multiple of {split}", fix=f"give a multiple of {at_once}"
        )
    return config.batch_size // at_once
