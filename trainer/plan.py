"""Everything that is known before a model is loaded: the samples, how each fits, and the steps."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from phi3v.schema import Conversation, UserError
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.data import DataFiles, Records, find_files
from phi3v.trainer.encode import Encoder
from phi3v.trainer.events import Event, Measured
from phi3v.trainer.fit import Fits
from phi3v.trainer.load import load_processor, settings_of
from phi3v.trainer.machine import Machine, accumulation, processes
from phi3v.trainer.model import Phi3VProcessor
from phi3v.trainer.steps import Batching, Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How records become a model's input; a sample has at most `max_length` tokens."""

    processor: Phi3VProcessor
    encoder: Encoder
    max_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Data(Reading):
    """What is trained on and scored on, and how it is read."""

    records: Records
    evaluation: Records | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The run to come."""

    machine: Machine
    data: Data
    fits: Fits
    steps: Steps

    def digests(self) -> dict[str, str]:
        """Return what tells whether data are the same: SHA-256 of each file, and of how the samples fit."""
        paths = [*self.data.records.paths, *(self.data.evaluation.paths if self.data.evaluation else ())]
        found = {}
        for path in paths:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        return found | {"samples": self.fits.digest()}


def plan(
    config: TrainConfig, computer: Machine, *, count: int | None = None, processor: Phi3VProcessor | None = None
) -> Generator[Event, None, Plan]:
    """Check and measure the data, and plan the steps.

    Args:
        config: the run.
        computer: what it computes with.
        count: processes, instead of those that take part.
        processor: of the model, if it is loaded already.

    Raises:
        UserError: the data or the batch do not allow the run.
    """
    batching = _batching(config, count or processes())
    files = find_files(config.data_dir, config.on_error)
    data = open_data(config, files, processor)
    fits = Fits()
    for done in fits.measure(
        data.records, data.encoder, max_length=data.max_length, on_error=config.on_error, sizes=files.sizes
    ):
        yield Measured(done, len(data.records))
    _check_labels(fits, config)
    steps = Steps(
        fits.kept,
        fits.sizes,
        batching,
        epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        seed=config.seed,
    )
    return Plan(machine=computer, data=data, fits=fits, steps=steps)


def open_data(config: TrainConfig, files: DataFiles, processor: Phi3VProcessor | None = None) -> Data:
    """Return a run's checked data, and what encodes them.

    Raises:
        UserError: a file holds no record, or there is no such model.
    """
    records = Records(files.train)
    reading = reading_of(config, records, processor)
    return Data(
        records=records,
        evaluation=Records(files.evaluation) if files.evaluation else None,
        processor=reading.processor,
        encoder=reading.encoder,
        max_length=reading.max_length,
    )


def reading_of(config: TrainConfig, records: Records, processor: Phi3VProcessor | None = None) -> Reading:
    """Return how a run reads records; `processor` instead of the model's."""
    return reading(
        config.model_name_or_path,
        config.data_dir / "images",
        records,
        num_crops=config.num_crops,
        limits=(config.max_length, config.max_tokens_per_gpu),
        processor=processor,
    )


def reading(
    name: str,
    image_root: Path,
    records: Sequence[Conversation] | Records,
    *,
    num_crops: int | None = None,
    limits: Sequence[int | None] = (),
    processor: Phi3VProcessor | None = None,
) -> Reading:
    """Return how a model reads records.

    Args:
        name: the model, as `load_processor` takes it.
        image_root: where the images' paths start.
        records: some or all of them.
        num_crops: most crops of an image; by default those that a run of ours has trained the model with, else the
            recipe's.
        limits: most tokens of a sample, as far as given; by default those of the run.
        processor: instead of the model's.

    Raises:
        UserError: there is no such model.
    """
    processor, run = processor or load_processor(name), settings_of(name)
    if num_crops or not run:
        processor.image_processor.num_crops = num_crops or default_crops(records)
    if not any(limits):
        limits = (run.get("max_length"), run.get("max_tokens_per_gpu"))
    return Reading(processor=processor, encoder=Encoder(processor, image_root), max_length=longest(processor, *limits))


def longest(processor: Phi3VProcessor, *limits: int | None) -> int:
    """Return the most tokens of a sample: the least of what the model takes and of a run's limits, as far as given."""
    return min(limit for limit in (*limits, int(processor.tokenizer.model_max_length)) if limit)


def default_crops(records: Sequence[Conversation] | Records) -> int:
    """Return the recipe's number of crops: 16, but 4 where records hold several images, as of a video."""
    first = [records[index] for index in range(min(len(records), 100))]
    return 4 if any(len(record.images) > 1 for record in first) else 16


def _batching(config: TrainConfig, count: int) -> Batching:
    if config.max_tokens_per_gpu is None:
        accumulation(config, count)  # refuses a batch that cannot be split evenly
    return Batching(
        size=config.batch_size,
        processes=count,
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
