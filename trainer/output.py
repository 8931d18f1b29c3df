"""A run's folder: whose it is, and what it holds beside weights and scores."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from phi3v.schema import UserError
from phi3v.schema.jsonl import atomic_write
from phi3v.trainer.checkpoints import find, whole
from phi3v.trainer.config import FILE_NAME, TrainConfig
from phi3v.trainer.load import is_adapter
from phi3v.trainer.predictions import scores_path

# What a run leaves in its folder, beside the processor's files, which the next run writes over in any case.
OUTPUTS = (
    ".predictions_*",
    "adapter_*",
    "checkpoint-*",
    "config.json",
    "data.json",
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
    *(
        "save_steps",
        "save_total_limit",
        "eval_batch_size",
        "eval_only",
        "dry_run",
        "gpus",
        "gpu_memory",
        "nproc",
        "preset",
        "report_to",
        "run_name",
    ),
}
DATA = "data.json"
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
    if config.resume not in {None, "auto"} and not saved.exists():
        fix = "name that run's --output_dir, or leave --resume out"
        raise UserError("holds no run to go on with", where=config.output_dir, fix=fix)
    if not saved.exists() or config.overwrite:
        return None
    if config.resume is None:
        fix = "choose another --output_dir, go on with --resume auto, or add --overwrite"
        raise UserError("holds another run", where=config.output_dir, fix=fix)
    before, now = json.loads(saved.read_bytes()), config.values()
    changed = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)} - FREE
    if config.adapters and before["model_name_or_path"] != now["model_name_or_path"]:  # on it the adapters stand
        changed.add("model_name_or_path")
    if changed:
        told = ", ".join(f"--{name} was {before.get(name)} and is {now.get(name)}" for name in sorted(changed))
        fix = "give the same settings to go on, or another --output_dir to start anew"
        raise UserError(f"this run has other settings: {told}", where=config.output_dir, fix=fix)
    return find(config.output_dir, config.resume)


def require_same_data(folder: Path, digests: Mapping[str, str]) -> None:
    """Refuse to go on with other data than a run began with: its steps would hold other samples.

    Args:
        folder: of the run.
        digests: as `Plan.digests` gives them.

    Raises:
        UserError: they differ; the message names the files.
    """
    path = folder / DATA
    before = json.loads(path.read_bytes()) if path.exists() else digests
    changed = sorted(name for name in before.keys() | digests.keys() if before.get(name) != digests.get(name))
    if changed:
        files = [name for name in changed if name != "samples"] or ["the sizes of pictures"]
        fix = "bring back the data that it began with, or start anew with another --output_dir"
        raise UserError(f"the data have changed since this run began: {', '.join(files)}", where=folder, fix=fix)


def require_one_run(view: Mapping[str, str]) -> None:
    """Refuse processes that are about to do different runs: they would wait for each other for ever.

    Args:
        view: what this process has found, by its name.

    Raises:
        UserError: on every process, if one has found something else than the first.
    """
    first, *others = gather_object([dict(view)])
    for number, other in enumerate(others, 1):
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                what = (
                    f"process {number} has found {other.get(name)} as {name}, and the first process {first.get(name)}"
                )
                raise UserError(what, fix="put --data_dir and --output_dir on a disk that all nodes share")


def make_folder(config: TrainConfig, digests: Mapping[str, str]) -> None:
    """Make the output folder, rid of an earlier run's files: a stale adapter would be loaded in place of the model.

    Of the run that is gone on with only checkpoints go that are not whole.

    Args:
        config: of the run.
        digests: of its data, kept for `require_same_data`.

    Raises:
        UserError: the folder cannot be written.
    """
    anew = config.resume is None or not (config.output_dir / FILE_NAME).exists()
    try:
        config.output_dir.mkdir(parents=True, exist_ok=True)
        for pattern in OUTPUTS if anew else ("checkpoint-*",):
            for path in config.output_dir.glob(pattern):
                if anew or not whole(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        config.save(config.output_dir)
        _write(config.output_dir / "environment.json", _environment())
        _write(config.output_dir / DATA, digests)
    except OSError as error:
        fix = "choose another --output_dir"
        raise UserError(f"cannot write here ({error.strerror})", where=config.output_dir, fix=fix) from error


def write_metrics(folder: Path, trained: Mapping[str, float]) -> None:
    """Write `metrics.json`: the Trainer's figures of a run, and its scores before and after."""
    metrics = dict(trained)
    for when in ("before", "after"):
        path = scores_path(folder, when)
        scores = json.loads(path.read_bytes()) if path.exists() else {}
        metrics |= {f"{name}_{when}": score for name, score in scores.items() if isinstance(score, float)}
    _write(folder / "metrics.json", metrics)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def _environment() -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"python": platform.python_version(), "platform": platform.platform(), "gpus": gpus, "packages": versions}
