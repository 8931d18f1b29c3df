"""One training run: plan it, load, score, train, score again, save."""

from __future__ import annotations

from collections.abc import Iterator
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
from phi3v.trainer.data import said_in_worker
from phi3v.trainer.events import Event, Note, Stopped
from phi3v.trainer.load import check_weights, load_model, load_quantised
from phi3v.trainer.machine import accumulation, is_first_process, machine, processes
from phi3v.trainer.model.attention import PACKED_SDPA
from phi3v.trainer.output import make_folder, require_one_run, require_same_data, starting_point, write_metrics
from phi3v.trainer.plan import Plan, plan
from phi3v.trainer.predictions import evaluated, scores_path
from phi3v.trainer.report import write_report
from phi3v.trainer.scored_loop import ScoredTrainer, evaluating
from phi3v.trainer.scorer import Scorer, score_only
from phi3v.trainer.step_data import Failure, StepData
from phi3v.trainer.strategy import Strategy, check_checkpoint, choose, explained


def train(config: TrainConfig) -> Iterator[Event]:
    """Run a training, yielding what happens; on several processes only the first has something to say.

    Raises:
        UserError: the machine, the data, the model or the output folder do not allow it, said before any
            training where it can be known by then; or another process is gone.
    """
    try:
        yield from _train(config)
    except RuntimeError as error:
        if told := explained(error):
            raise told from error
        raise


def _train(config: TrainConfig) -> Iterator[Event]:
    first = is_first_process()
    computer = machine(config)
    check_weights(config.model_name_or_path)
    if config.eval_only:
        yield from _spoken(score_only(config, computer))
        return
    checkpoint = starting_point(config)
    set_seed(config.seed)  # before the adapters are drawn
    strategy = choose(config, count=processes(), on_gpu=torch.cuda.is_available())
    if checkpoint:
        check_checkpoint(checkpoint, strategy, processes())
    run = yield from plan(config, computer)
    digests = run.digests()
    if config.resume:
        require_same_data(config.output_dir, digests)
    scorer = Scorer(config, run.data.evaluation, run.data, computer) if run.data.evaluation else None
    trainer = _trainer(config, run, scorer, strategy)
    require_one_run({"checkpoint": checkpoint.name if checkpoint else "none", **digests})
    if first:
        make_folder(config, digests)
        yield from _describe(config, trainer.model, run, strategy)
        if checkpoint:
            trainer.failures = [Failure(*own) for own in (whole(checkpoint) or {})["failures"]]
            yield Note(f"goes on from {checkpoint}")
    trainer.accelerator.wait_for_everyone()  # the folder is there
    yield from _spoken(_before(config, trainer.model, run, scorer))
    with on_sigterm() as asked:
        trainer.stop = asked
        try:
            trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except UserError as error:
            raise said_in_worker(error) from error
    if not trainer.stopped:
        yield from _finish(config, trainer, run, scorer, trained.metrics)
        return
    failures = trainer.all_failures()
    if first:
        _write_ledger(config, run, trainer.state.global_step, failures)
        yield Stopped(checkpoints(config.output_dir)[-1])


def _finish(
    config: TrainConfig, trainer: ScoredTrainer, run: Plan, scorer: Scorer | None, metrics: dict[str, float]
) -> Iterator[Event]:
    """Save the weights, score them, and write what came of the run."""
    first, failures, done = is_first_process(), trainer.all_failures(), trainer.state.global_step
    best = trainer.load_best()
    trainer.save_model()
    trainer.save_state()
    if first:
        run.data.processor.save_pretrained(config.output_dir)
        chosen = f", the weights of step {best} of {done}, which scored best" if best else ""
        yield Note(f"saved to {config.output_dir}{chosen}")
    if scorer and not scores_path(config.output_dir, "after").exists():
        yield from _spoken(scorer.score(trainer.model, "after"))
    if first:
        _write_ledger(config, run, done, failures)
        write_metrics(config.output_dir, metrics)
        yield Note(f"report: {write_report(config, run.data.evaluation)}")
        if failures:
            yield Note(f"{len(failures)} pictures could not be read: see {config.output_dir / ledger.FILE_NAME}")


def _before(config: TrainConfig, model: nn.Module, run: Plan, scorer: Scorer | None) -> Iterator[Event]:
    """Say what is scored, and score the model as it comes."""
    if scorer is None or run.data.evaluation is None:
        yield Note("no *_val.jsonl and no labelled *_test.jsonl: nothing is scored")
        return
    if scores_path(config.output_dir, "before").exists():  # of the run that is gone on with
        return
    yield from (Note(text) for text in scorer.described())
    questions = scorer.first_questions()
    if questions:
        yield from scorer.score(model, "before", questions)


def _spoken(events: Iterator[Event]) -> Iterator[Event]:
    """Yield on the first process alone what all of them do."""
    first = is_first_process()
    for event in events:
        if first:
            yield event


def _trainer(config: TrainConfig, run: Plan, scorer: Scorer | None, strategy: Strategy) -> ScoredTrainer:
    computer, pad_id = run.machine, run.data.processor.tokenizer.pad_token_id
    packed = config.max_tokens_per_gpu is not None
    attention = PACKED_SDPA if packed and computer.attention == "sdpa" else computer.attention
    # Weights that train stay float32 under autocast, as small steps vanish in half precision; frozen ones need not.
    dtype = computer.dtype if config.adapters else torch.float32
    load = load_quantised if config.use_qlora else load_model
    model = adapt(load(config.model_name_or_path, dtype=dtype, attention=attention), config)
    data = StepData(
        run.data.records, run.data.encoder, run.fits, packed=packed, on_error=config.on_error, pad_id=pad_id
    )
    arguments = training_arguments(
        config, total=run.steps.total, per_epoch=run.steps.per_epoch, kind=computer.kind, strategy=strategy
    )
    if scorer:
        arguments = evaluating(arguments, config, scorer)
    return ScoredTrainer(
        scorer=scorer,
        patience=config.early_stopping_patience,
        data=data,
        steps=run.steps,
        rate=partial(learning_rate, config=config),
        strategy=strategy,
        keep=config.save_total_limit,
        model=model,
        args=arguments,
    )


def _describe(config: TrainConfig, model: nn.Module, run: Plan, strategy: Strategy) -> Iterator[Note]:
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    total = sum(weight.numel() for weight in model.parameters())
    yield Note(f"{config.strategy}: {trainable:,} of {total:,} parameters train")
    several = f"{processes()} processes by " if processes() > 1 else ""
    yield Note(f"{several}{strategy.title} ({strategy.reason})")
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
            yield from ledger.evaluation_entries(run.data.evaluation, evaluated(config.output_dir))

    ledger.write(config.output_dir, entries())
