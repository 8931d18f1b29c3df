"""A model and its processor by name: a folder, an adapter's folder, a hub id, or `tiny`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phi3v.schema import UserError
from phi3v.schema.errors import require
from phi3v.trainer.model import Phi3VForCausalLM, Phi3VProcessor
from phi3v.trainer.model.tiny import TINY, tiny_model, tiny_processor

ADAPTER_CONFIG = "adapter_config.json"


def load_processor(name: str) -> Phi3VProcessor:
    """Return the processor of a model.

    Raises:
        UserError: there is none, or the hub cannot be reached.
    """
    processor: Phi3VProcessor = tiny_processor() if name == TINY else _pretrained(Phi3VProcessor, name)
    return processor


def load_model(name: str, *, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> nn.Module:
    """Return a model for inference or training; an adapter's folder gives its base model with the adapter on it.

    Args:
        name: a folder, a hub id, or `tiny`.
        dtype: of the parameters; the RoPE tables stay float32.
        attention: `sdpa`, `eager` or `flash_attention_2`.

    Raises:
        UserError: there is none, or the hub cannot be reached.
    """
    adapter = Path(name) / ADAPTER_CONFIG
    if adapter.is_file():
        require("train", "peft")
        from peft import PeftModel

        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        adapted: nn.Module = PeftModel.from_pretrained(load_model(base, dtype=dtype, attention=attention), name)
        return adapted
    if name != TINY:
        whole: nn.Module = _pretrained(Phi3VForCausalLM, name, dtype=dtype, attn_implementation=attention)
        return whole
    model = tiny_model(tiny_processor())
    model.name_or_path = TINY  # what an adapter's configuration names as its base
    model.set_attn_implementation(attention)
    return model


def _pretrained(kind: Any, name: str, **options: Any) -> Any:
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError("no such folder", where=name, fix="name a model's folder, a hub id like owner/name, or 'tiny'")
    try:
        return kind.from_pretrained(name, **options)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        fix = "name a folder with a whole model, or a hub id; offline, download it first: hf download OWNER/NAME"
        raise UserError(f"cannot load this model ({reason})", where=name, fix=fix) from error
