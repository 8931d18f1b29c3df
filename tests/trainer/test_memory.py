"""Bytes of weights, gradients and moments against those of real tensors; what would fit, in its order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from phi3v.trainer.adapt import adapt
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.load import load_model, load_quantised
from phi3v.trainer.memory import GIB, Layout, Memory, Scenario, changes, first_that_fits, usual
from phi3v.trainer.model import Phi3VConfig
from phi3v.trainer.model.tiny import tiny_config, tiny_processor
from phi3v.trainer.packing import PICTURE, QUADRATIC
from phi3v.trainer.shape import configuration, released, weightless
from phi3v.trainer.trial import Forward

PAGE = (Forward((2510,), packed=False, image_tokens=2509, pictures=17, labelled=20),)
WORDS = (Forward((20,), packed=False, image_tokens=0, pictures=0, labelled=9),)


def tiny() -> Phi3VConfig:
    return tiny_config(tiny_processor())


def scenario(shape: Phi3VConfig, layout: Layout, forwards: Any = WORDS, kind: Any = "bf16", **options: Any) -> Scenario:
    return Scenario(
        shape=shape,
        config=TrainConfig(data_dir=Path(), **options),
        layout=layout,
        kind=kind,
        attention="sdpa",
        forwards=forwards,
        alone=(forwards[0]._replace(lengths=forwards[0].lengths[:1]),),
        several=True,
    )


def size(tensors: Iterator[torch.Tensor]) -> int:
    """Return the bytes of the storages that tensors lie in."""
    return sum({own.untyped_storage().data_ptr(): own.untyped_storage().nbytes() for own in tensors}.values())


def states_of(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield what bitsandbytes holds beside a weight of 4 bits: its scales."""
    for weight in model.parameters():
        if hasattr(weight, "quant_state"):
            yield weight.quant_state.absmax


STRATEGIES: list[dict[str, Any]] = [
    {},
    {"freeze_vision_model": True},
    {"use_lora": True, "lora_rank": 8},
    {"use_qlora": True},
    {"use_lora": True, "use_dora": True},
]


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
@pytest.mark.parametrize("options", STRATEGIES, ids=str)
def test_weights_gradients_and_moments_are_those_of_real_tensors(options: dict[str, Any], kind: Any) -> None:
    asked = scenario(tiny(), Layout("single", 1), kind=kind, **options)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind] if asked.config.adapters else torch.float32
    model = adapt((load_quantised if asked.config.use_qlora else load_model)("tiny", dtype=dtype), asked.config)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.grad = torch.zeros_like(weight)
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()

    states = asked.states

    moments = (own for state in optimizer.state.values() for own in state.values() if own.ndim)
    assert states.weights == pytest.approx(size(iter([*model.parameters(), *states_of(model)])), rel=0.01)
    assert states.gradients == size(weight.grad for weight in trained if weight.grad is not None)
    assert states.optimizer == size(moments)
    assert asked.trained == sum(weight.numel() for weight in trained)
    if not asked.config.use_qlora:  # which packs two numbers into one
        assert asked.parameters == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("options", [{}, {"use_lora": True}], ids=str)
def test_weights_are_counted_as_the_run_loads_them_and_not_as_they_are_stored(options: dict[str, Any]) -> None:
    stored = tiny()
    stored.dtype = torch.bfloat16

    for kind in ("fp32", "bf16"):
        asked, plain = (scenario(shape, Layout("single", 1), kind=kind, **options) for shape in (stored, tiny()))

        assert asked.states == plain.states
        assert asked.states.weights > 0


def test_the_released_models_are_as_large_as_they_are() -> None:
    """4,146,621,440 parameters, as their files have them."""
    full = scenario(released(), Layout("single", 1))

    assert full.parameters == 4_146_621_440
    assert full.states.weights + full.states.gradients + full.states.optimizer == pytest.approx(66.2e9, rel=0.002)


def test_a_folders_configuration_counts_and_a_name_of_the_hub_is_the_released_one(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)

    assert configuration(str(tmp_path)).hidden_size == configuration("tiny").hidden_size == 96
    assert configuration("somebody/a-fine-tune").hidden_size == 3072


def test_the_released_configuration_is_the_released_file(shared: Path) -> None:
    file = configuration(str(shared / "realdata/tokenizers/phi35_vision"))
    ours = released()

    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert getattr(file, name) == getattr(ours, name)
    assert file.vision_config.to_dict() == ours.vision_config.to_dict()
    sizes = [{name: own.shape for name, own in meta(shape).state_dict().items()} for shape in (file, ours)]
    assert sizes[0] == sizes[1]


def meta(shape: Phi3VConfig) -> nn.Module:
    return weightless(shape, TrainConfig(data_dir=Path()), torch.float32)


def test_work_is_that_of_the_released_model() -> None:
    model = weightless(released(), TrainConfig(data_dir=Path()), torch.float32)
    decoder, tower = model.model, model.model.vision_embed_tokens.img_processor.vision_model
    token = sum(own.weight.numel() for own in [*decoder.layers.modules(), model.lm_head] if isinstance(own, nn.Linear))
    patch = sum(own.weight.numel() for own in tower.encoder.layers[:-1].modules() if isinstance(own, nn.Linear))

    assert round(577 * patch / token) == PICTURE
    assert round(token / (32 * 3072), -2) == QUADRATIC


@pytest.mark.parametrize(
    "layout", [Layout("zero2", 8), Layout("zero3", 8), Layout("fsdp2", 8)], ids=lambda own: own.name
)
def test_eight_gpus_hold_an_eighth_of_what_is_divided(layout: Layout) -> None:
    count, trained = 4_146_621_440, 4_134_023_168
    whole = {"zero2": 2 * count, "zero3": 2 * count / 8, "fsdp2": 4 * count / 8}[layout.name]

    states = scenario(released(), layout).states

    assert states.weights == pytest.approx(whole, rel=1e-6)
    both = {"zero2": 14, "zero3": 14, "fsdp2": 12}[layout.name]
    assert states.gradients + states.optimizer == pytest.approx(both * trained / 8, rel=1e-6)
    assert scenario(released(), layout._replace(offload=True)).states.optimizer == (
        0 if "zero" in layout.name else states.optimizer
    )


def test_ddp_holds_its_gradients_twice_and_one_process_does_not() -> None:
    alone, ddp = (scenario(tiny(), Layout(name, gpus)).memory for name, gpus in (("single", 1), ("ddp", 2)))

    assert ddp.buffers - alone.buffers == alone.gradients


def test_the_optimizers_own_memory_is_the_roots_that_it_takes() -> None:
    """On a GPU AdamW works on all weights at once; so does a CPU if it is asked to."""
    from phi3v.trainer.trial import _Counted

    weights = [nn.Parameter(torch.ones(1000, 100)) for _ in range(3)]
    optimizer = torch.optim.AdamW(weights, foreach=True)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    counted = _Counted()
    counted.leave_out(own for state in optimizer.state.values() for own in state.values())
    counted.leave_out([*weights, *(weight.grad for weight in weights if weight.grad is not None)])

    with counted:
        optimizer.step()

    assert counted.both == pytest.approx(3 * 1000 * 100 * 4, rel=0.01)
    assert scenario(tiny(), Layout("single", 1))._update == scenario(tiny(), Layout("single", 1)).states.gradients


def test_the_sum_is_of_all_components_and_a_tenth_is_left_free() -> None:
    memory = Memory(weights=GIB, gradients=2 * GIB, optimizer=3 * GIB, activations=GIB, logits=GIB, buffers=GIB)

    assert memory.total == 9 * GIB
    assert memory.fits(10)
    assert not memory.fits(9.9)


def test_what_is_usual_is_zero2_for_all_weights_and_ddp_for_adapters() -> None:
    full, lora = TrainConfig(data_dir=Path()), TrainConfig(data_dir=Path(), use_lora=True)

    assert usual(full, 1) == usual(lora, 1) == Layout("single", 1)
    assert (usual(full, 4), usual(lora, 4)) == (Layout("zero2", 4), Layout("ddp", 4))


def test_changes_come_in_their_order_the_ones_without_effect_on_results_first() -> None:
    many = (Forward((30, 20), packed=False, image_tokens=0, pictures=0, labelled=9),)
    asked = scenario(tiny(), Layout("ddp", 2), many, gradient_checkpointing=False)

    told = [" ".join(f"{name} {value}".strip() for name, value in flags.items()) for flags, _ in changes(asked)]

    assert told[:5] == [
        "--gradient_checkpointing",
        "--batch_size_per_gpu 1",
        "--deepspeed zero2",
        "--deepspeed zero3",
        "--deepspeed zero2 --offload_optimizer",
    ]
    alone = [told.index(flag) for flag in ("--freeze_vision_model", "--use_lora", "--use_qlora")]
    assert alone == sorted(alone)
    assert told[-1].startswith("--use_qlora --freeze_vision_model")
    assert all(
        own.config.gradient_checkpointing for flags, own in changes(asked) if "--gradient_checkpointing" in flags
    )
    assert not any(own.layout.divides for _, own in changes(asked) if own.config.use_qlora)


def test_every_change_takes_less_than_what_it_changes() -> None:
    many = (Forward((400, 400), packed=False, image_tokens=313, pictures=1, labelled=9),)
    asked = scenario(tiny(), Layout("ddp", 2), many, gradient_checkpointing=False)
    buckets = 4 * GIB  # a bucket of ZeRO is larger than the tiny model

    for flags, changed in islice(changes(asked), 8):
        spared = changed.memory.total - (buckets if "zero" in changed.layout.name else 0)
        assert spared < asked.memory.total, flags


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpus", "gpu_memory", "expected"),
    [(8, 80, "as it is"), (2, 48, "--deepspeed zero2 --offload_optimizer"), (1, 4, None)],
)
def test_the_first_change_that_fits_is_named(gpus: int, gpu_memory: float, expected: str | None) -> None:
    shape = released()
    asked = scenario(shape, usual(TrainConfig(data_dir=Path()), gpus), PAGE)

    found = first_that_fits([({"as": "it is"}, asked), *changes(asked)], gpu_memory)

    assert (found and " ".join(f"{name} {value}".strip() for name, value in found[0].items())) == expected
    assert found is None or found[1].memory.fits(gpu_memory)
