"""What a run will be, before it starts: `phi3v-train --dry_run`.

The plan is the run's own (`phi3v.trainer.plan`): its samples, tokens and steps are those of the run. No weights are
read and no GPU is needed; of pictures only the headers are looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch

from phi3v.trainer.bound import find_processor
from phi3v.trainer.config import Precision, TrainConfig
from phi3v.trainer.events import Event
from phi3v.trainer.fit import Fits
from phi3v.trainer.forecast_scores import Answering
from phi3v.trainer.machine import TYPES, Machine, processes
from phi3v.trainer.memory import GIB, RESERVE, Memory, Scenario, changes, first_that_fits, usual
from phi3v.trainer.model.attention import PACKED_SDPA
from phi3v.trainer.packing import Pack
from phi3v.trainer.plan import Plan, plan
from phi3v.trainer.questions import sample, survey
from phi3v.trainer.shape import configuration
from phi3v.trainer.trial import Forward

BOUND = "  (bound)"


class Spread(NamedTuple):
    """How a number is spread over the samples."""

    mean: float
    p95: int
    most: int

    @classmethod
    def of(cls, values: Iterable[int]) -> Spread:
        """Return it of some numbers: of the 95th percentile the number that at least 95 % do not exceed."""
        ordered = sorted(values)
        return cls(sum(ordered) / len(ordered), ordered[-(-95 * len(ordered) // 100) - 1], ordered[-1])


class Division(NamedTuple):
    """What the steps of a run hold, all together.

    Attributes:
        forwards: of all processes, those without a sample among them.
        tokens: padding not counted.
        places: padding counted.
        excess: what the slowest process does more than the mean, the mean over steps.
        largest: forwards of which one takes the most memory.
        several: whether a step has more than one forward on each process.
    """

    forwards: int
    tokens: int
    places: int
    excess: float
    largest: tuple[Forward, ...]
    several: bool

    @property
    def padding(self) -> float:
        """The share of places that hold no token."""
        return 1 - self.tokens / self.places


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run will be.

    Attributes:
        config: the run.
        run: its plan.
        exact: whether a tokenizer counted; else every figure that depends on a text is a bound.
        division: what its steps hold.
        scenario: where it runs, and what it takes there.
        fix: where it does not fit, the first change that would and the run with it; None if none does, or it fits.
        answering: the largest batch that is scored; None if nothing is.
    """

    config: TrainConfig
    run: Plan
    exact: bool
    division: Division
    scenario: Scenario
    fix: tuple[dict[str, str], Scenario] | None
    answering: Answering | None


def forecast(config: TrainConfig) -> Generator[Event, None, Forecast]:
    """Plan a run, and return what is known of it.

    Raises:
        UserError: the data or the batch do not allow it.
    """
    shape = configuration(config.model_name_or_path)
    gpus = config.gpus or max(processes(), torch.cuda.device_count())
    processor, exact = find_processor(config.model_name_or_path)
    computer = _computer(config)
    run = yield from plan(config, computer, count=gpus, processor=processor)
    division = divide(run, packed=config.max_tokens_per_gpu is not None)
    alone = tuple(
        _largest(run.fits, ((number,) for number in run.fits.kept), packed=config.max_tokens_per_gpu is not None)
    )
    scenario = Scenario(
        shape=shape,
        config=config,
        layout=usual(config, gpus),
        kind=computer.kind,
        attention=computer.attention,
        forwards=division.largest,
        alone=alone,
        several=division.several,
    )
    fix = None
    if config.gpu_memory and not scenario.memory.fits(config.gpu_memory):
        fix = first_that_fits(changes(scenario), config.gpu_memory)
    return Forecast(
        config=config,
        run=run,
        exact=exact,
        division=division,
        scenario=scenario,
        fix=fix,
        answering=_answering(config, run, scenario),
    )


def _answering(config: TrainConfig, run: Plan, scenario: Scenario) -> Answering | None:
    data = run.data
    if data.evaluation is None:
        return None
    asked = sample(list(survey(data.evaluation, data.encoder, data.max_length)), config.eval_limit, config.seed)
    return Answering.of(
        asked,
        scenario.shape,
        TYPES[scenario.kind],
        batch_size=config.eval_batch_size,
        processes=scenario.layout.gpus,
        longest=config.max_new_tokens,
    )


def _computer(config: TrainConfig) -> Machine:
    """Return what a GPU would compute with; with FlashAttention as much is held as with PyTorch's own."""
    kind: Precision = "fp32" if config.fp32 else "fp16" if config.fp16 else "bf16"
    packed = config.max_tokens_per_gpu is not None
    attention = "eager" if config.attention == "eager" else PACKED_SDPA if packed else "sdpa"
    return Machine(kind, attention, "as planned")


def divide(run: Plan, *, packed: bool) -> Division:
    """Return what the steps of a run hold."""
    sizes, tokens, places, forwards, excess, several = run.fits.sizes, 0, 0, 0, 0.0, False
    packs: set[Pack] = set()
    for number in range(run.steps.total):
        dealt = [step.packs for step in run.steps.of(number)]
        work = [sum(sizes.work(own, padded=not packed) for own in one) for one in dealt]
        excess += max(work) / sum(work) * len(work) - 1
        several = several or len(dealt[0]) > 1
        for own in (own for one in dealt for own in one):
            lengths = [sizes.tokens[sample] for sample in own]
            forwards, tokens = forwards + 1, tokens + sum(lengths)
            places += (sum(lengths) if packed else len(own) * max(lengths)) if own else 2  # that nobody learns from
            packs.add(own)
    largest = tuple(_largest(run.fits, packs, packed=packed))
    return Division(forwards, tokens, places, excess / run.steps.total, largest, several)


def _largest(fits: Fits, packs: Iterable[Pack], *, packed: bool) -> list[Forward]:
    """Return the forward with the most tokens, padding counted, and the one with the most pictures, if another."""
    by_tokens = by_pictures = Forward((1,), packed, 0, 0, 0)
    for own in packs:
        if own:
            made = _forward(fits, own, packed=packed)
            by_tokens = max(by_tokens, made, key=lambda forward: (forward.rows[0] * forward.rows[1], forward.pictures))
            by_pictures = max(by_pictures, made, key=lambda forward: forward.pictures)
    return [by_tokens] + [by_pictures] * (by_pictures.pictures > by_tokens.pictures)


def _forward(fits: Fits, pack: Pack, *, packed: bool) -> Forward:
    return Forward(
        lengths=tuple(fits.tokens[sample] for sample in pack),
        packed=packed,
        image_tokens=sum(fits.tokens[sample] - fits.texts[sample] for sample in pack),
        pictures=sum(fits.pictures[sample] for sample in pack),
        labelled=sum(fits.labelled[sample] for sample in pack),
    )


def lines(known: Forecast) -> Iterator[str]:
    """Yield what a forecast says, line by line; what is a bound says so."""
    yield from _file_lines(known)
    mark = "" if known.exact else BOUND
    if mark:
        where = known.config.model_name_or_path
        yield f"no tokenizer of {where} at hand: every byte of a text counts as a token"
    for part in (_sample_lines, _step_lines, _memory_lines):
        yield from (f"{line}{mark}" for line in part(known))


def _file_lines(known: Forecast) -> Iterator[str]:
    data = known.run.data
    for role, records in {"train": data.records, "scored on": data.evaluation}.items():
        names = (
            ", ".join(path.name for path in records.paths) if records else "no *_val.jsonl, no labelled *_test.jsonl"
        )
        yield f"{role}: {len(records) if records else 0:,} records ({names})"


def _sample_lines(known: Forecast) -> Iterator[str]:
    data, fits = known.run.data, known.run.fits
    kept = fits.kept
    columns = {
        "tokens": [fits.tokens[number] for number in kept],
        "  of text": [fits.texts[number] for number in kept],
        "  of images": [fits.tokens[number] - fits.texts[number] for number in kept],
        "  learned": [fits.labelled[number] for number in kept],
    }
    for name, values in columns.items():
        own = Spread.of(values)
        yield f"{name} a sample: mean {own.mean:,.1f}, 95 % up to {own.p95:,}, most {own.most:,}"
    crops = data.encoder.num_crops
    fewer = sum(fits.num_crops[number] < crops for number in kept)
    dropped = sum(map(bool, fits.dropped_turns))
    yield f"num_crops {crops}; {fewer:,} samples with fewer, {dropped:,} without old turns"
    yield f"skipped: {len(fits.skipped):,} of {len(fits):,}"
    for code, count in sorted(Counter(own.code for own in fits.skipped.values()).items()):
        number = next(number for number, own in fits.skipped.items() if own.code == code)
        reason = fits.skipped[number].reason
        yield f"  {code}: {count:,}, such as {data.records[number].id!r}: {reason}"


def _step_lines(known: Forecast) -> Iterator[str]:
    config, division, gpus = known.config, known.division, known.scenario.layout.gpus
    steps = known.run.steps
    how = f"{config.batch_size_per_gpu} at once"
    if config.max_tokens_per_gpu is not None:
        full = division.tokens / division.forwards / config.max_tokens_per_gpu
        how = f"packs of up to {config.max_tokens_per_gpu:,} tokens, {full:.1%} full"
    yield f"steps: {steps.total:,} of {config.batch_size} samples, {steps.per_epoch:,} an epoch"
    yield f"forwards: {division.forwards:,} on {gpus} GPU{'s' * (gpus > 1)}, {how}"
    yield f"padding: {division.padding:.1%} of {division.places:,} places"
    if gpus > 1:
        yield f"the slowest GPU of a step does {division.excess:.1%} more than the mean of all"


def _memory_lines(known: Forecast) -> Iterator[str]:
    scenario, gpus = known.scenario, known.scenario.layout.gpus
    yield f"{known.config.strategy}: {scenario.trained:,} of {scenario.parameters:,} parameters train"
    largest = max(scenario.forwards, key=lambda own: own.rows[0] * own.rows[1])
    rows, length = largest.rows
    checkpointing = "with" if known.config.gradient_checkpointing else "without"
    yield f"largest forward: {rows} x {length:,} tokens, {largest.pictures} pictures"
    where = f"each of {gpus} GPUs" if gpus > 1 else "the GPU"
    how = f"{scenario.layout}, {scenario.kind}, {checkpointing} gradient checkpointing"
    yield f"memory of {where} in GiB ({how}):"
    yield from table(scenario.memory)
    if known.answering:
        rows, length, keys = known.answering
        yield f"scoring: up to {rows} x {length:,} tokens at a time; their keys and values take {keys / GIB:.2f} GiB"
    if known.config.gpu_memory:
        yield from verdict(known, known.config.gpu_memory)


def table(memory: Memory) -> Iterator[str]:
    """Yield the components of memory, and their sum."""
    for field in fields(Memory):
        yield f"  {field.name:<12}{getattr(memory, field.name) / GIB:8.2f}"
    yield f"  {'all':<12}{memory.total / GIB:8.2f}"


def verdict(known: Forecast, gpu_memory: float) -> Iterator[str]:
    """Yield whether the run fits, else the smallest change with which it would; and the same of its scores."""
    need, rest = known.scenario.memory.total / GIB, f"{RESERVE:.0%} are left for CUDA and fragments"
    if known.scenario.memory.fits(gpu_memory):
        yield f"fits {gpu_memory:g} GiB ({rest})"
        yield from _scoring_verdict(known, gpu_memory)
        return
    start = f"does not fit {gpu_memory:g} GiB ({need:.1f} needed, {rest})"
    if known.fix is None:
        yield f"{start}, and nothing tried here would: give a smaller --max_length, fewer --num_crops, more GPUs"
        return
    flags, scenario = known.fix
    told = " ".join(f"{name} {value}".strip() for name, value in flags.items())
    yield f"{start}; the smallest change that would: {told} ({scenario.layout}, {scenario.memory.total / GIB:.1f} GiB)"


def _scoring_verdict(known: Forecast, gpu_memory: float) -> Iterator[str]:
    """Yield that the scores do not fit beside what is there between two steps, and what does."""
    states, answering = known.scenario.states, known.answering
    room = int((1 - RESERVE) * gpu_memory * GIB) - states.weights - states.optimizer
    if answering and answering.keys > room:
        fitting = answering.that_fit(room)
        fix = f"--eval_batch_size {fitting} would" if fitting else "fewer --num_crops or a smaller --max_length might"
        yield f"scoring does not fit beside weights and optimizer; {fix}"
