"""What this machine can do, and what follows for a run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from phi3v.schema import UserError
from phi3v.schema.errors import require
from phi3v.trainer.config import Precision, TrainConfig

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
VOLTA = (7, 0)  # the last GPUs that CUDA 13 knows nothing of
AMPERE = 8  # compute capability of the first GPUs with bfloat16; torch's own question also counts emulation


def processes() -> int:
    """Return how many processes take part, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return which of them this process is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first_process() -> bool:
    """Return whether this process is the one that speaks and writes."""
    return rank() == 0


class Machine(NamedTuple):
    """What a run computes with, and why.

    Attributes:
        kind: the precision of the computation.
        attention: `sdpa`, `eager` or `flash_attention_2`.
        reason: why this attention.
    """

    kind: Precision
    attention: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The type of that precision."""
        return TYPES[self.kind]

    def autocast(self) -> AbstractContextManager[Any]:
        """Return what the forwards of training run under, so that scores are of the model as it trains."""
        if self.kind == "fp32":
            return nullcontext()
        return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=self.dtype)


def machine(config: TrainConfig) -> Machine:
    """Return what this machine computes the run with.

    Raises:
        UserError: it cannot do what is asked for.
    """
    if torch.cuda.device_count() > 1 and processes() == 1:
        # The Trainer would wrap the model in nn.DataParallel without a word.
        fix = "leave --nproc out for one process a GPU, or choose one GPU by CUDA_VISIBLE_DEVICES=0"
        raise UserError(f"one process sees {torch.cuda.device_count()} GPUs", fix=fix)
    if torch.cuda.is_available():
        check_build(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())
    if config.use_qlora:
        require("qlora", "bitsandbytes")
    kind = precision(config.kind)
    return Machine(kind, *_attention(config, kind))


def check_build(capability: tuple[int, int], built_for: Sequence[str]) -> None:
    """Refuse a GPU that the installed torch has no kernels for: the first one would fail with `no kernel image`.

    Args:
        capability: the GPU's.
        built_for: as `torch.cuda.get_arch_list` has it; `sm_80` runs on 8.0 and later ones of 8, `sm_90a` on 9.0
            alone, `compute_90` on all later ones.

    Raises:
        UserError: it has none. Which build has them is from PyTorch's support matrix of 2.11 to 2.14: CUDA 12.6 has
            Volta, CUDA 12.8 and 13 begin with Turing (https://github.com/pytorch/pytorch/issues/190385).
    """
    major, minor = capability
    for kind, first, second, alone in re.findall(r"(sm|compute)_(\d+)(\d)([a-z]?)\b", " ".join(built_for)):
        own = (int(first), int(second))
        if own == capability or (not alone and own < capability and (kind == "compute" or own[0] == major)):
            return
    if built_for:
        build = "CUDA 12.6, which torch has up to 2.14" if capability <= VOLTA else "a newer CUDA"
        what = f"torch {torch.__version__} has no kernels for this GPU of compute capability {major}.{minor}"
        fix = f"install torch's build for {build}: see https://pytorch.org/get-started"
        raise UserError(f"{what}, only for {', '.join(built_for)}", fix=fix)


def precision(asked: Precision | None = None) -> Precision:
    """Return the precision: as asked, else bfloat16 where the GPU has it, float16 on others, float32 on a CPU.

    Raises:
        UserError: this machine does not have it.
    """
    if asked == "fp32":
        return "fp32"
    if not torch.cuda.is_available():
        if asked == "fp16":
            raise UserError("--fp16 needs a GPU, and torch sees none", fix="leave it out: float32 is used")
        return asked or "fp32"
    major, minor = torch.cuda.get_device_capability()
    if asked == "bf16" and major < AMPERE:
        fix = "leave --bf16 out: float16 is used"
        raise UserError(f"this GPU (compute capability {major}.{minor}) has no bfloat16", fix=fix)
    return asked or ("fp16" if major < AMPERE else "bf16")


def _attention(config: TrainConfig, kind: Precision) -> tuple[str, str]:
    """Return the attention and the reason for it."""
    asked = "flash_attention_2" if config.use_flash_attention else config.attention
    if asked == "flash_attention_2":
        for what, fix in _against_flash(kind):
            raise UserError(f"FlashAttention-2 {what}", fix=fix)
    if asked != "auto":
        return asked, "as asked"
    against = [what for what, _ in _against_flash(kind)]
    return ("sdpa", f"FlashAttention-2 {against[0]}") if against else ("flash_attention_2", "it is installed")


def _against_flash(kind: Precision) -> Iterator[tuple[str, str]]:
    """Yield what speaks against FlashAttention-2 here, and what to do about it."""
    without = "or leave it out: sdpa is used"
    if not torch.cuda.is_available():
        yield "needs a GPU, and torch sees none", f"use one, {without}"
    elif (major := torch.cuda.get_device_capability()[0]) < AMPERE:
        yield f"needs a GPU of compute capability {AMPERE}, and this has {major}", f"use one, {without}"
    if kind != "bf16":
        yield f"runs here in bf16 only, not in {kind}", f"add --bf16, {without}"
    if find_spec("flash_attn") is None:
        yield "is not installed", f"pip install flash-attn --no-build-isolation, {without}"


def accumulation(config: TrainConfig, count: int | None = None) -> int:
    """Return how many forwards make one optimizer step, on so many processes instead of those that take part.

    Raises:
        UserError: the global batch cannot be split evenly; the message has the numbers.
    """
    count = count or processes()
    at_once = config.batch_size_per_gpu * count
    if config.batch_size % at_once:
        split = f"{config.batch_size_per_gpu} samples x {count} processes"
        raise UserError(
            f"--batch_size {config.batch_size} is not a multiple of {split}", fix=f"give a multiple of {at_once}"
        )
    return config.batch_size // at_once
