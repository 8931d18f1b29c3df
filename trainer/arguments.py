"""The settings of a run as the Hugging Face Trainer takes them, and its own settings as flags of ours."""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from phi3v.schema import UserError
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.strategy import FSDP2, Strategy

# transformers 5.23 renamed gradient checkpointing.
CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)
FULL_WARMUP = 50  # the original recipe's
WARMUP_SHARE = 10  # a shorter run warms up for a tenth of its steps: else it would never reach its learning rate

# Fields of TrainingArguments that a flag of ours decides, or that have no meaning here.
INSTEAD = {
    CHECKPOINTING: "--gradient_checkpointing",
    "auto_find_batch_size": "--max_tokens_per_gpu: it bounds a forward by its tokens",
    "data_seed": "--seed",
    "deepspeed": "--deepspeed",
    "dataloader_drop_last": "leave it out: no sample is dropped",
    "dataloader_num_workers": "--num_workers",
    "disable_tqdm": "--no_tqdm",
    "eval_strategy": "--eval_steps",
    "enable_jit_checkpoint": "leave it out: SIGTERM saves and stops in any case",
    "fsdp": "--fsdp",
    "gradient_accumulation_steps": "--batch_size and --batch_size_per_gpu: it follows from them",
    "gradient_checkpointing": "--gradient_checkpointing",
    "ignore_data_skip": "leave it out: a resumed run reads no sample again",
    "include_num_input_tokens_seen": "leave it out: the log has tokens_per_second",
    "greater_is_better": "--metric_for_best: it follows from it",
    "load_best_model_at_end": "--metric_for_best: with --eval_steps the best weights are kept in any case",
    "metric_for_best_model": "--metric_for_best",
    "per_device_eval_batch_size": "--eval_batch_size",
    "per_device_train_batch_size": "--batch_size_per_gpu",
    "remove_unused_columns": "leave it out: no column is removed",
    "resume_from_checkpoint": "--resume",
    "save_only_model": "leave it out: such a checkpoint cannot be gone on with",
    "train_sampling_strategy": "--max_tokens_per_gpu: packing needs no grouping by length",
    "weight_decay": "--wd",
}
SAVE_STRATEGIES = ("no", "steps", "epoch")


def training_arguments(
    config: TrainConfig, *, total: int, per_epoch: int, kind: str, strategy: Strategy
) -> TrainingArguments:
    """Return the recipe's settings for the Hugging Face Trainer, and the user's over them.

    Args:
        config: the run.
        total: optimizer steps.
        per_epoch: optimizer steps of an epoch.
        kind: the precision.
        strategy: how the run is divided.

    Raises:
        UserError: a field that does not exist, a value that is none of its, or a field that a flag of ours decides.
    """
    more = _parsed(config.more)
    own: dict[str, Any] = {
        "output_dir": str(config.output_dir),
        "max_steps": total,
        "per_device_train_batch_size": 1,  # one item of the loader is a whole step
        CHECKPOINTING: config.gradient_checkpointing,
        f"{CHECKPOINTING}_kwargs": {"use_reentrant": False},  # the reentrant kind trains no adapter
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": _warmup(config, total),
        "weight_decay": config.wd,
        "optim": "adamw_torch",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-7,
        "max_grad_norm": 1.0,
        "use_cpu": not torch.cuda.is_available(),  # else bf16 is refused there
        "bf16": kind == "bf16",
        "fp16": kind == "fp16",
        "logging_steps": config.logging_steps,
        "logging_nan_inf_filter": False,  # the loop stops at such a loss itself
        "report_to": "none",
        "remove_unused_columns": False,
        "dataloader_num_workers": config.num_workers,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "deepspeed": strategy.settings,
        "fsdp": strategy.name == FSDP2,
        # Seconds: a process may wait while the first one writes 50 GB to a slow disk. On CPUs it is torch's half hour.
        "ddp_timeout": 3_600,
        "disable_tqdm": not config.tqdm,
        "seed": config.seed,
    }
    return TrainingArguments(**own | _saving(config, more.pop("save_strategy", "steps"), per_epoch) | more)


def _warmup(config: TrainConfig, total: int) -> int:
    if config.warmup_steps is not None:
        return config.warmup_steps
    if config.warmup_ratio is not None:
        return int(config.warmup_ratio * total)
    return min(FULL_WARMUP, total // WARMUP_SHARE)


def _saving(config: TrainConfig, strategy: str, per_epoch: int) -> dict[str, Any]:
    strategy = str(strategy)
    if strategy not in SAVE_STRATEGIES:
        raise UserError(f"--save_strategy {strategy} is none of {', '.join(SAVE_STRATEGIES)}", fix="choose one")
    if strategy == "no" or not config.save_steps:
        return {"save_strategy": "no"}
    # The Trainer's epoch is a pass over the loader, which is the whole run.
    return {"save_strategy": "steps", "save_steps": per_epoch if strategy == "epoch" else config.save_steps}


def _parsed(more: Mapping[str, str]) -> dict[str, Any]:
    """Return fields of TrainingArguments with the types they have there."""
    known = {own.name for own in fields(TrainingArguments)}
    ours = {own.name for own in fields(TrainConfig)}
    for name in more:
        if name in INSTEAD:
            raise UserError(f"--{name} is decided by another flag here", fix=INSTEAD[name])
        if name not in known:
            near = get_close_matches(name, known | ours, n=1)
            fix = f"did you mean --{near[0]}?" if near else "phi3v-train --help lists what there is"
            raise UserError(f"no such option: --{name}", fix=fix)
    parser = HfArgumentParser(TrainingArguments)
    parser.error = _refuse
    parsed = {}
    for name, value in more.items():
        try:
            words = [value] if value.startswith("{") else value.split()
            parsed[name] = getattr(parser.parse_args([f"--{name}", *words]), name)
        except ArgumentError as error:
            _refuse(str(error))
    return parsed


def _refuse(message: str) -> NoReturn:
    told = re.sub(r"/--[\w-]+", "", message.removeprefix("argument "))  # both spellings of the option
    raise UserError(told, fix="see TrainingArguments in transformers' documentation")
