"""Everything that is known before a model is loaded: the samples, how each fits, and the steps."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from phi3v.schema import UserError
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.data import Records, find_files
from phi3v.trainer.encode import Encoder
from phi3v.trainer.events import Event, Measured, Note
from phi3v.trainer.fit import Fits
from phi3v.trainer.load import load_processor
from phi3v.trainer.machine import Machine, accumulation, processes
from phi3v.trainer.model import Phi3VProcessor
from phi3v.trainer.steps import Batching, Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The run to come."""

    machine: Machine
    records: Records
    evaluation: Records | None
    processor: Phi3VProcessor
    encoder: Encoder
    fits: Fits
    steps: Steps


def plan(config: TrainConfig, computer: Machine) -> Generator[Event, None, Plan]:
    """Check and measure the data, and plan the steps.

    Raises:
        UserError: the data or the batch do not allow the run.
    """
    batching = _batching(config)
    files = find_files(config.data_dir)
    records = Records(files.train)
    processor = load_processor(config.model_name_or_path)
    processor.image_processor.num_crops = config.num_crops or default_crops(records)
    encoder = Encoder(processor, config.data_dir / "images")
    limits = (config.max_length, config.max_tokens_per_gpu, int(processor.tokenizer.model_max_length))
    fits = Fits()
    for done in fits.measure(
        records, encoder, max_length=min(limit for limit in limits if limit), on_error=config.on_error
    ):
        yield Measured(done, len(records))
    _check_labels(fits, config)
    steps = Steps(
        fits.kept,
        fits.tokens,
        batching,
        epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        seed=config.seed,
    )
    return Plan(
        machine=computer,
        records=records,
        evaluation=Records(files.evaluation) if files.evaluation else None,
        processor=processor,
        encoder=encoder,
        fits=fits,
        steps=steps,
    )


def default_crops(records: Records) -> int:
    """Return the recipe's number of crops: 16, but 4 where records hold several images, as of a video."""
    first = [records[index] for index in range(min(len(records), 100))]
    return 4 if any(len(record.images) > 1 for record in first) else 16


def _batching(config: TrainConfig) -> Batching:
    if config.max_tokens_per_gpu is None:
        accumulation(config)  # refuses a batch that cannot be split evenly
    return Batching(
        size=config.batch_size,
        processes=processes(),
        at_once=config.batch_size_per_gpu,
        max_tokens=config.max_tokens_per_gpu,
    )


def _check_labels(fits: Fits, config: TrainConfig) -> None:
    """Refuse data that teaches nothing, or everything: its labels are wrong."""
    labelled, tokens = sum(fits.labelled), sum(fits.tokens)
    if not fits.kept:
        number, skipped = next(iter(fits.skipped.items()))
        fix = "give a larger --max_length, or mend the pictures"
        what = f"no training sample is left; number {number + 1}: {skipped.reason}"
        raise UserError(what, where=config.data_dir, fix=fix)
    if labelled in {0, tokens}:
        fix = "look at the samples: phi3v-train ... --show 3"
        raise UserError(f"{labelled} of {tokens} tokens are learned", where=config.data_dir, fix=fix)


def describe(config: TrainConfig, model: nn.Module, run: Plan) -> Iterator[Note]:
    """Yield what a user should know before the first step: what trains, on what, and how a batch is divided."""
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    total = sum(weight.numel() for weight in model.parameters())
    strategy = "QLoRA" if config.use_qlora else "LoRA" if config.use_lora else "full fine-tuning"
    frozen = ", vision part frozen" if config.freeze_vision_model else ""
    yield Note(f"{strategy}{frozen}: {trainable:,} of {total:,} parameters train")
    device = f"{torch.cuda.get_device_name()}" if torch.cuda.is_available() else "CPU"
    crops = run.processor.image_processor.num_crops
    yield Note(f"{run.machine.kind} on {device}, num_crops {crops}")
    yield Note(f"attention: {run.machine.attention} ({run.machine.reason})")
    fits, kept = run.fits, len(run.fits.kept)
    shorter = sum(crops != run.encoder.num_crops for crops in fits.num_crops) - len(fits.skipped)
    yield Note(
        f"{kept} samples of {sum(fits.tokens) / kept:.0f} tokens on average, {max(fits.tokens)} at most;"
        f" {shorter} with fewer crops, {sum(map(bool, fits.dropped_turns))} with fewer turns,"
        f" {len(fits.skipped)} skipped"
    )
    yield Note(f"{run.steps.total} steps of {config.batch_size} samples = {_division(config)}")


def _division(config: TrainConfig) -> str:
    if config.max_tokens_per_gpu:
        return f"packs of up to {config.max_tokens_per_gpu} tokens on {processes()} processes"
    return f"{config.batch_size_per_gpu} at once x {processes()} processes x {accumulation(config)} accumulated"
