"""Which weights train: all, all but the vision part, or low-rank adapters."""

from __future__ import annotations

from functools import partial
from typing import cast

from torch import nn

from phi3v.schema import UserError
from phi3v.schema.errors import first_line
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.model.modeling import Phi3VForCausalLM

LANGUAGE_TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head")
TARGETS = "name modules of the model, such as qkv_proj,o_proj,fc1"
VISION_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "img_projection.0", "img_projection.2")


def adapt(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Return the model with exactly those weights requiring gradients that the strategy trains.

    The last CLIP layer and the layer norm after it never take part in the forward pass; they are frozen always,
    so that DDP does not wait for their gradients and weight decay does not change them.
    """
    assert isinstance(model, Phi3VForCausalLM), "adapters go on a whole model, not on an adapter"
    vision = model.model.vision_embed_tokens
    tower = vision.img_processor.vision_model
    unused = (tower.encoder.layers[-1], tower.post_layernorm)
    if config.adapters:
        return _with_adapters(model, config, skipped=len(tower.encoder.layers) - 1)
    for part in (vision,) if config.freeze_vision_model else unused:
        part.requires_grad_(requires_grad=False)
    return model


def learning_rate(name: str, config: TrainConfig) -> float | None:
    """Return the learning rate of a parameter's part of the model, or None for the run's."""
    if ".img_processor." in name:
        return config.vision_learning_rate
    return config.projector_learning_rate if ".vision_embed_tokens." in name else None


def _with_adapters(model: Phi3VForCausalLM, config: TrainConfig, *, skipped: int) -> nn.Module:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    targets: tuple[str, ...] = LANGUAGE_TARGETS if config.freeze_vision_model else LANGUAGE_TARGETS + VISION_TARGETS
    if config.lora_targets:
        targets = tuple(name.strip() for name in config.lora_targets.split(","))
    if config.use_qlora:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=round(config.lora_rank * config.lora_alpha_ratio),
        lora_dropout=config.lora_dropout,
        init_lora_weights="gaussian",
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        target_modules=list(targets),
        exclude_modules=rf".*vision_model\.encoder\.layers\.{skipped}\..*",
    )
    try:
        adapted = get_peft_model(model, lora)
    except ValueError as error:  # what peft raises where no module is targeted, or one that it cannot adapt
        raise UserError(f"--lora_targets {config.lora_targets}: {first_line(error)}", fix=TARGETS) from error
    # With lm_head among the targets peft would save the embeddings, too: 200 MB that did not change.
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    return cast("nn.Module", adapted)
