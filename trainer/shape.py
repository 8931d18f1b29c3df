"""A model without its weights: what it is made of, for everything that can be known from that.

Source: config.json of microsoft/Phi-3-vision-128k-instruct and of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from phi3v.schema import UserError
from phi3v.trainer.adapt import adapt
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.load import NOT_QUANTISED
from phi3v.trainer.model import Phi3VConfig, Phi3VForCausalLM
from phi3v.trainer.model.tiny import TINY, tiny_config, tiny_processor

RELEASED = ("microsoft/Phi-3-vision-128k-instruct", "microsoft/Phi-3.5-vision-instruct")
HEAD = 96  # the width of an attention head


def configuration(name: str) -> Phi3VConfig:
    """Return the configuration of a model: `tiny`, a folder's config.json, else the released ones', which are alike.

    Without the hub a model of another name is taken for a fine-tuned one of these.

    Raises:
        UserError: the folder's configuration cannot be read.
    """
    if name == TINY:
        return tiny_config(tiny_processor())
    file = Path(name) / "config.json"
    if not file.is_file():
        return released()
    try:
        read: Phi3VConfig = Phi3VConfig.from_pretrained(str(file.parent))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"is no configuration of the model ({error})", where=file, fix="copy it again") from error
    return read


def released() -> Phi3VConfig:
    """Return what the two released configurations share; the factors of RoPE, which size nothing, are left at 1."""
    own: dict[str, Any] = {
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "su", "short_factor": [1.0] * (HEAD // 2), "long_factor": [1.0] * (HEAD // 2)},
        "pad_token_id": 32000,
        "img_processor": {"image_dim_out": 1024, "name": "clip_vision_model", "num_img_tokens": 144},
    }
    return Phi3VConfig(**own)


class Weight(NamedTuple):
    """A parameter, and what it takes.

    Attributes:
        name: in the model.
        numbers: how many it holds.
        size: bytes of all of them, as the run loads them; of one in 4 bits with its scales.
        trains: whether it is changed.
    """

    name: str
    numbers: int
    size: int
    trains: bool


NF4_BLOCK = 64  # weights that share a float32 scale


def weightless(
    shape: Phi3VConfig, config: TrainConfig, dtype: torch.dtype, *, attention: str = "sdpa"
) -> Phi3VForCausalLM:
    """Return the model on the meta device, adapted as the run does it; with adapters, the model that they are in.

    Args:
        shape: the model's.
        config: the run's strategy.
        dtype: that the run loads it in.
        attention: as `load_model` takes it.
    """
    with torch.device("meta"):
        # By its only name; without a type it would take that of the file, in which the released weights are stored.
        model = Phi3VForCausalLM._from_config(shape, dtype=dtype, attn_implementation=attention)  # noqa: SLF001
        adapted = adapt(model, config)
    base: Phi3VForCausalLM = adapted.get_base_model() if config.adapters else adapted  # type: ignore[operator,assignment]
    if config.use_qlora:
        for name, weight in base.named_parameters():
            if _quantised(base, name):
                weight.data = weight.data.to(dtype)  # what it is computed with
    return base


def weights(model: Phi3VForCausalLM, *, quantised: bool) -> Iterator[Weight]:
    """Yield the parameters of a model; with `quantised` those of its decoder's layers are in 4 bits, but adapters."""
    for name, weight in model.named_parameters():
        count, size = weight.numel(), weight.numel() * weight.element_size()
        if quantised and _quantised(model, name):
            size = count // 2 + 4 * -(-count // NF4_BLOCK)
        yield Weight(name, count, size, weight.requires_grad)


def _quantised(model: nn.Module, name: str) -> bool:
    """Return whether bitsandbytes holds a parameter in 4 bits: a linear layer's, outside of what is left whole."""
    if name.startswith(NOT_QUANTISED) or "lora_" in name:
        return False
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear)
