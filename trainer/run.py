"""One training run: plan it, load, score, train, score again, save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from phi3v.schema import UserError
from phi3v.trainer import ledger
from phi3v.trainer.adapt import adapt, learning_rate
from phi3v.trainer.arguments import training_arguments
from phi3v.trainer.checkpoints import checkpoints, on_sigterm, whole
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.data import Examples, said_in_worker
from phi3v.trainer.evaluate import Prediction, accuracy, predict, write_scores
from phi3v.trainer.events import Answered, Event, Note, Scored, Stopped, When
from phi3v.trainer.load import load_model, load_quantised
from phi3v.trainer.loop import StepTrainer
from phi3v.trainer.machine import Machine, accumulation, is_first_process, machine, processes
from phi3v.trainer.model.attention import PACKED_SDPA
from phi3v.trainer.output import make_folder, require_same_data, starting_point, write_metrics
from phi3v.trainer.plan import Plan, plan
from phi3v.trainer.step_data import Failure, StepData

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(config: TrainConfig) -> Iterator[Event]:
    """Run a training, yielding what happens; on several processes only the first has something to say.

    Raises:
        UserError: the machine, the data, the model or the output folder do not allow it; said before any
            training where it can be known by then.
    """
    first = is_first_process()
    computer = machine(config)
    checkpoint = starting_point(config)
    set_seed(config.seed)  # before the adapters are drawn
    run = yield from plan(config, computer)
    digests = run.digests()
    if checkpoint:
        require_same_data(config.output_dir, digests)
    trainer = _trainer(config, run)
    if first:
        make_folder(config, digests)
        yield from _describe(config, trainer.model, run)
        if checkpoint:
            trainer.failures = [Failure(*own) for own in (whole(checkpoint) or {})["failures"]]
            yield Note(f"goes on from {checkpoint}")
        yield from _score(config, trainer, run, "before")
    with on_sigterm() as asked:
        trainer.stop = asked
        try:
            done = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except UserError as error:
            raise said_in_worker(error) from error
    failures = trainer.all_failures()
    if trainer.stopped:
        if first:
            _write_ledger(config, run, trainer.state.global_step, failures)
            yield Stopped(checkpoints(config.output_dir)[-1])
        return
    trainer.save_model()
    trainer.save_state()
    if first:
        run.data.processor.save_pretrained(config.output_dir)
        yield Note(f"saved to {config.output_dir}")
        yield from _score(config, trainer, run, "after")
        _write_ledger(config, run, trainer.state.global_step, failures)
        write_metrics(config.output_dir, done.metrics)
        if failures:
            yield Note(f"{len(failures)} pictures could not be read: see {config.output_dir / ledger.FILE_NAME}")


def _trainer(config: TrainConfig, run: Plan) -> StepTrainer:
    computer, pad_id = run.machine, run.data.processor.tokenizer.pad_token_id
    packed = config.max_tokens_per_gpu is not None
    attention = PACKED_SDPA if packed and computer.attention == "sdpa" else computer.attention
    # Weights that train stay float32 under autocast, as small steps vanish in half precision; frozen ones need not.
    dtype = TYPES[computer.kind] if config.adapters else torch.float32
    load = load_quantised if config.use_qlora else load_model
    model = adapt(load(config.model_name_or_path, dtype=dtype, attention=attention), config)
    data = StepData(
        run.data.records, run.data.encoder, run.fits, packed=packed, on_error=config.on_error, pad_id=pad_id
    )
    arguments = training_arguments(config, total=run.steps.total, per_epoch=run.steps.per_epoch, kind=computer.kind)
    return StepTrainer(
        data=data,
        steps=run.steps,
        rate=partial(learning_rate, config=config),
        keep=config.save_total_limit,
        model=model,
        args=arguments,
    )


def _describe(config: TrainConfig, model: nn.Module, run: Plan) -> Iterator[Note]:
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    total = sum(weight.numel() for weight in model.parameters())
    strategy = "QLoRA" if config.use_qlora else "LoRA" if config.use_lora else "full fine-tuning"
    frozen = ", vision part frozen" if config.freeze_vision_model else ""
    yield Note(f"{strategy}{frozen}: {trainable:,} of {total:,} parameters train")
    device = f"{torch.cuda.get_device_name()}" if torch.cuda.is_available() else "CPU"
    crops = run.data.encoder.num_crops
    yield Note(f"{run.machine.kind} on {device}, num_crops {crops}")
    yield Note(f"attention: {run.machine.attention} ({run.machine.reason})")
    fits, kept = run.fits, len(run.fits.kept)
    shorter = sum(fits.num_crops[number] < crops for number in fits.kept)
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


def _write_ledger(config: TrainConfig, run: Plan, done: int, failures: list[Failure]) -> None:
    def entries() -> Iterator[dict[str, Any]]:
        yield from ledger.training_entries(run.data.records, run.fits, run.steps, done, failures)
        if run.data.evaluation:
            times = sum((config.output_dir / f"eval_{when}.json").exists() for when in ("before", "after"))
            yield from ledger.evaluation_entries(run.data.evaluation, times)

    ledger.write(config.output_dir, entries())


def _score(config: TrainConfig, trainer: StepTrainer, run: Plan, when: When) -> Iterator[Event]:
    path = config.output_dir / f"eval_{when}.json"
    if not run.data.evaluation:
        if when == "before":
            yield Note("no *_val.jsonl and no labelled *_test.jsonl: nothing is scored")
        return
    if path.exists():  # of the run that is gone on with
        return
    prompts = Examples(run.data.evaluation, run.data.encoder, answered=False)
    if when == "before":
        yield Note(f"scored on {', '.join(path.name for path in run.data.evaluation.paths)}: {len(prompts)} records")
    predictions: list[Prediction] = []
    with _autocast(run.machine):
        for prediction in predict(
            trainer.model,
            run.data.processor,
            prompts,
            batch_size=config.eval_batch_size,
            max_new_tokens=config.max_new_tokens,
        ):
            predictions.append(prediction)
            yield Answered(len(predictions), len(prompts))
    write_scores(path, predictions)
    yield Scored(when, accuracy(predictions), len(predictions))


def _autocast(computer: Machine) -> AbstractContextManager[Any]:
    """Return what the forwards of training run under, so that scores are of the model as it trains."""
    if computer.kind == "fp32":
        return nullcontext()
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=TYPES[computer.kind])
