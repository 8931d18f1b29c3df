"""The memory that a run takes on each GPU, by component, for every way to divide it.

Weights, gradients and the optimizer's moments are counted from the modules themselves; what a forward holds is found by
`phi3v.trainer.trial`. What an engine adds follows its documented settings, and was not measured on a GPU.

Not covered: the CUDA context, kernels' workspaces and what the allocator loses to fragments: `RESERVE` is for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn

from phi3v.trainer.config import Precision, TrainConfig
from phi3v.trainer.machine import TYPES
from phi3v.trainer.model import Phi3VConfig, Phi3VForCausalLM
from phi3v.trainer.shape import weightless, weights
from phi3v.trainer.strategy import DDP, FSDP2, SHIPPED, SINGLE, choose, title
from phi3v.trainer.trial import Forward, Held, try_out

GIB = 2**30
RESERVE = 0.1  # of a GPU
ZERO2, ZERO3 = SHIPPED
# Elements. The recipe's reduce_bucket_size, of which ZeRO-2 has two while it overlaps; stage3_max_live_parameters.
ZERO2_BUCKETS = 2 * 500_000_000
ZERO3_LIVE = 1_000_000_000


class Layout(NamedTuple):
    """How a run is divided over its GPUs.

    Attributes:
        name: `single`, `ddp`, `zero2`, `zero3` or `fsdp2`.
        gpus: one process each.
        offload: ZeRO keeps the optimizer in the CPU's memory.
    """

    name: str
    gpus: int
    offload: bool = False

    @property
    def divides(self) -> bool:
        """Whether each process holds only a part of what all need."""
        return self.name not in {SINGLE, DDP}

    def __str__(self) -> str:
        """Return its name as people write it."""
        return title(self.name) + (", optimizer in the CPU's memory" if self.offload else "")


def usual(config: TrainConfig, gpus: int) -> Layout:
    """Return how a run is divided over GPUs, as asked or by default; ZeRO-1 is taken for DDP, which needs more.

    Raises:
        UserError: what is asked for cannot be had.
    """
    strategy = choose(config, count=gpus, on_gpu=True)
    division = (strategy.settings or {}).get("zero_optimization", {})
    name = DDP if strategy.name == "zero1" else strategy.name
    return Layout(name, gpus, offload="offload_optimizer" in division)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on each GPU.

    Attributes:
        weights, gradients, optimizer: what is there all the time, or may be.
        activations: what a forward keeps for its backward, and computes again in it.
        logits: what the loss takes beside them.
        buffers: 16-bit copies of weights, what is exchanged with other GPUs, the optimizer's own while it updates.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int = 0
    logits: int = 0
    buffers: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(astuple(self))

    def fits(self, gpu_memory: float) -> bool:
        """Return whether a GPU of so many GiB has room for it and for what is not counted."""
        return self.total <= (1 - RESERVE) * gpu_memory * GIB


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A run of which the memory is asked.

    Attributes:
        shape: of the model.
        config: the strategy, and what is computed again.
        layout: over which GPUs.
        kind: the precision.
        attention: as `load_model` takes it.
        forwards: those of which one is the largest.
        alone: the same with one sample at a time.
        several: whether a step has more than one on each GPU.
        tried: what was found out already; shared by runs that differ in nothing that matters to it.
    """

    shape: Phi3VConfig
    config: TrainConfig
    layout: Layout
    kind: Precision
    attention: str
    forwards: tuple[Forward, ...]
    alone: tuple[Forward, ...]
    several: bool
    tried: dict[str, Held] = field(default_factory=dict)

    @property
    def trained(self) -> int:
        """How many parameters train."""
        return self._counts.trained

    @property
    def parameters(self) -> int:
        """How many parameters there are."""
        return self._counts.numbers

    @cached_property
    def states(self) -> Memory:
        """What is there between two steps; the other components are left at 0."""
        counts, (name, gpus, offload) = self._counts, self.layout
        if not self.layout.divides:
            size = counts.trained_size
            return Memory(weights=counts.size, gradients=size, optimizer=2 * size)
        if name == FSDP2:  # as loaded, cut up
            size = counts.trained_size // gpus
            return Memory(weights=counts.size // gpus, gradients=size, optimizer=2 * size)
        width = TYPES[self.kind].itemsize
        held = counts.numbers // (gpus if name == ZERO3 else 1)
        own = 0 if offload else counts.trained // gpus
        return Memory(weights=width * held, gradients=width * own, optimizer=12 * own)  # float32 weights, two moments

    @cached_property
    def memory(self) -> Memory:
        """All components, of the largest forward."""
        held = max(map(self._held, self.forwards), key=lambda own: own.activations + own.logits)
        copies = held.copies if self.several else max(0, held.copies - self.states.gradients)  # before there are any
        update = max(0, self._update - held.activations - held.logits - copies)  # after all of these
        buffers = copies + self._exchange + update
        return replace(self.states, activations=held.activations, logits=held.logits, buffers=buffers)

    @cached_property
    def _counts(self) -> _Counts:
        return _Counts.of(self._model(), quantised=self.config.use_qlora)

    def _model(self) -> Phi3VForCausalLM:
        """Return the model as it is loaded by `phi3v.trainer.run`."""
        dtype = TYPES[self.kind] if self.config.adapters else torch.float32
        return weightless(self.shape, self.config, dtype, attention=self.attention)

    def _held(self, forward: Forward) -> Held:
        what = (self.config.values(), self.layout.divides, self.attention, forward)
        if (key := repr(what)) not in self.tried:
            self.tried[key] = self._try_out(forward)
        return self.tried[key]

    def _try_out(self, forward: Forward) -> Held:
        model, mixed = self._model(), self.kind != "fp32"
        if self.layout.divides:  # these compute with weights that are all of 16 bits
            for weight in model.parameters():
                weight.data = weight.data.to(TYPES[self.kind])
        checkpointing = self.config.gradient_checkpointing
        return try_out(model, forward, autocast=mixed and not self.layout.divides, checkpointing=checkpointing)

    @property
    def _exchange(self) -> int:
        """Bytes for what comes from other GPUs and goes to them."""
        counts, width = self._counts, TYPES[self.kind].itemsize
        if self.layout.name == FSDP2:  # what is no layer's, two layers, and gradients of one
            return width * (2 * (counts.numbers - counts.in_layers) + 3 * counts.layer)
        return {
            SINGLE: 0,
            DDP: counts.trained_size,  # its buckets hold all gradients once more
            ZERO2: width * ZERO2_BUCKETS,
            ZERO3: width * min(ZERO3_LIVE, counts.numbers),
        }[self.layout.name]

    @property
    def _update(self) -> int:
        """Bytes that AdamW takes while it updates: the roots of the second moments; ZeRO also float32 gradients."""
        counts, (name, gpus, offload) = self._counts, self.layout
        if name in {ZERO2, ZERO3}:
            return 0 if offload else 8 * counts.trained // gpus
        return counts.trained_size // gpus if name == FSDP2 else counts.trained_size


class _Counts(NamedTuple):
    """Numbers and bytes of a model's parameters.

    Attributes:
        numbers, size: of all.
        trained, trained_size: of those that train.
        in_layers: numbers in the layers of decoder and tower.
        layer: of the largest of these.
    """

    numbers: int
    size: int
    trained: int
    trained_size: int
    in_layers: int
    layer: int

    @classmethod
    def of(cls, model: Phi3VForCausalLM, *, quantised: bool) -> _Counts:
        own = list(weights(model, quantised=quantised))
        trained = [weight for weight in own if weight.trains]
        tower = model.model.vision_embed_tokens.img_processor.vision_model.encoder
        layers = [_numbers(layer) for layer in (*model.model.layers, *tower.layers)]
        return cls(
            sum(weight.numbers for weight in own),
            sum(weight.size for weight in own),
            sum(weight.numbers for weight in trained),
            sum(weight.size for weight in trained),
            sum(layers),
            max(layers),
        )


def _numbers(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


Flags = dict[str, str]
FEWER: tuple[tuple[Flags, dict[str, bool]], ...] = (
    ({"--freeze_vision_model": ""}, {"freeze_vision_model": True}),
    ({"--use_lora": ""}, {"use_lora": True}),
    ({"--use_qlora": ""}, {"use_qlora": True}),
    ({"--use_qlora": "", "--freeze_vision_model": ""}, {"use_qlora": True, "freeze_vision_model": True}),
)


def changes(scenario: Scenario) -> Iterator[tuple[Flags, Scenario]]:
    """Yield what would take less memory, the smallest change first: the flags to add, and the run with them.

    First what changes no result, each by itself and then together: checkpointing, attention, samples at once, division,
    the optimizer in the CPU's memory. Then what trains fewer weights, each as it is and with all of those: without the
    vision part, LoRA, QLoRA.
    """
    yield from _harmless(scenario)
    yield from _together(scenario)
    for flags, fields in FEWER:
        if all(getattr(scenario.config, name) for name in fields):
            continue
        config = replace(scenario.config, **fields)  # type: ignore[arg-type]
        gpus = scenario.layout.gpus
        layout = Layout(DDP if gpus > 1 else SINGLE, gpus) if config.adapters else scenario.layout
        own = replace(scenario, config=config, layout=layout)
        yield flags, own
        yield from ((flags | more, less) for more, less in _together(own))


def _together(scenario: Scenario) -> Iterator[tuple[Flags, Scenario]]:
    """Yield one change after the other, each on top of those before."""
    flags: Flags = {}
    while change := next(_harmless(scenario), None):
        flags, scenario = flags | change[0], change[1]
        yield flags, scenario


def _harmless(scenario: Scenario) -> Iterator[tuple[Flags, Scenario]]:
    config, (name, gpus, offload) = scenario.config, scenario.layout
    if not config.gradient_checkpointing:
        yield {"--gradient_checkpointing": ""}, replace(scenario, config=replace(config, gradient_checkpointing=True))
    if scenario.attention == "eager":
        yield {"--attention": "sdpa"}, replace(scenario, attention="sdpa")
    if scenario.forwards != scenario.alone:
        flag = {"--batch_size_per_gpu": "1"}
        if config.max_tokens_per_gpu:
            flag = {"--max_tokens_per_gpu": str(max(own.rows[1] for own in scenario.alone))}
        yield flag, replace(scenario, forwards=scenario.alone, several=True)
    if config.use_qlora:  # an engine does not divide weights of 4 bits
        return
    if name != ZERO3 and gpus > 1:
        for stage in (ZERO3,) if name == ZERO2 else (ZERO2, ZERO3):
            yield {"--deepspeed": stage}, replace(scenario, layout=Layout(stage, gpus, offload))
    if not offload and not config.adapters:
        stage = ZERO3 if name == ZERO3 else ZERO2
        flags = {"--deepspeed": stage, "--offload_optimizer": ""}
        yield flags, replace(scenario, layout=Layout(stage, gpus, offload=True))


def first_that_fits(scenarios: Iterable[tuple[Flags, Scenario]], gpu_memory: float) -> tuple[Flags, Scenario] | None:
    """Return the first run that fits on GPUs of so many GiB, and its flags; what cannot for its states is not tried."""
    for flags, scenario in scenarios:
        if scenario.states.fits(gpu_memory) and scenario.memory.fits(gpu_memory):
            return flags, scenario
    return None
