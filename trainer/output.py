"""A run's folder: whose it is, and what it holds beside weights and scores."""

from __future__ import annotations

import json
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from phi3v.schema import UserError
from phi3v.schema.jsonl import atomic_write
from phi3v.trainer.checkpoints import find, whole
from phi3v.trainer.config import FILE_NAME, TrainConfig
from phi3v.trainer.load import is_adapter

# What a run leaves in its folder, beside the processor's files, which the next run writes over in any case.
OUTPUTS = (
    ".predictions_*",
    "adapter_*",
    "checkpoint-*",
    "config.json",
    "environment.json",
    "eval_*.json",
    "generation_config.json",
    "metrics.json",
    "model*.safetensors*",
    "predictions_*",
    "report*",
    "samples.jsonl",
    "trainer_state.json",
)
# Settings that a resumed run may change: they change neither a weight nor a score.
FREE = {
    *("data_dir", "output_dir", "overwrite", "resume", "model_name_or_path", "tqdm", "num_workers", "logging_steps"),
    *("save_steps", "save_total_limit", "eval_batch_size", "eval_only", "preset", "report_to", "run_name"),
}
PACKAGES = ("phi3v", "torch", "transformers", "accelerate", "peft", "bitsandbytes", "deepspeed", "flash-attn", "pillow")


def starting_point(config: TrainConfig) -> Path | None:
    """Return the checkpoint to go on from; None to start at the beginning.

    Raises:
        UserError: the model is an adapter, or the output folder holds another run.
    """
    if is_adapter(config.model_name_or_path):
        fix = "name its base model, or merge the two first: phi3v-model merge"
        raise UserError("is an adapter, not a whole model", where=config.model_name_or_path, fix=fix)
    saved = config.output_dir / FILE_NAME
    if not saved.exists() or config.overwrite:
        return None
    if config.resume is None:
        fix = "choose another --output_dir, go on with --resume auto, or add --overwrite"
        raise UserError("holds another run", where=config.output_dir, fix=fix)
    before, now = json.loads(saved.read_bytes()), config.values()
    changed = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)} - FREE
    if changed:
        told = ", ".join(f"--{name} was {before.get(name)} and is {now.get(name)}" for name in sorted(changed))
        fix = "give the same settings to go on, or another --output_dir to start anew"
        raise UserError(f"this run has other settings: {told}", where=config.output_dir, fix=fix)
    return find(config.output_dir, config.resume)


def make_folder(config: TrainConfig) -> None:
    """Make the output folder, rid of an earlier run's files: a stale adapter would be loaded in place of the model.

    Of the run that is gone on with only checkpoints go that are not whole.
    """
    anew = config.resume is None or not (config.output_dir / FILE_NAME).exists()
    try:
        config.output_dir.mkdir(parents=True, exist_ok=True)
        for pattern in OUTPUTS if anew else ("checkpoint-*",):
            for path in config.output_dir.glob(pattern):
                if anew or not whole(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        config.save(config.output_dir)
        with atomic_write(config.output_dir / "environment.json") as file:
            file.write((json.dumps(_environment(), indent=2) + "\n").encode())
    except OSError as error:
        fix = "choose another --output_dir"
        raise UserError(f"cannot write here ({error.strerror})", where=config.output_dir, fix=fix) from error


def _environment() -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"python": platform.python_version(), "platform": platform.platform(), "gpus": gpus, "packages": versions}
