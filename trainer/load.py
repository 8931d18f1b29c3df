"""A model and its processor by name: a folder, an adapter's folder, a hub id, or `tiny`."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch import nn

from phi3v.schema import UserError
from phi3v.schema.errors import first_line, require
from phi3v.trainer.config import FILE_NAME
from phi3v.trainer.model import Phi3VForCausalLM, Phi3VProcessor
from phi3v.trainer.model.tiny import TINY, tiny_model, tiny_processor

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", "adapter_model.safetensors", "adapter_model.bin")
NOT_QUANTISED = ("model.vision_embed_tokens", "lm_head")  # the full path, or the tower is quantised, too
NO_FOLDER = "no such folder"
WHERE = "name a model's folder, a hub id like owner/name, or 'tiny'"


def load_processor(name: str) -> Phi3VProcessor:
    """Return the processor of a model.

    Raises:
        UserError: there is none, or the hub cannot be reached.
    """
    processor: Phi3VProcessor = tiny_processor() if name == TINY else _pretrained(Phi3VProcessor, name)
    return processor


def load_model(
    name: str, *, dtype: torch.dtype | Literal["auto"] = torch.float32, attention: str = "sdpa"
) -> nn.Module:
    """Return a model for inference or training; an adapter's folder gives its base model with the adapter on it.

    Args:
        name: a folder, a hub id, or `tiny`.
        dtype: of the parameters; `auto` as they are stored. The RoPE tables stay float32.
        attention: `sdpa`, `packed_sdpa`, `eager` or `flash_attention_2`.

    Raises:
        UserError: there is none, or the hub cannot be reached.
    """
    if is_adapter(name):
        return _adapted(load_model(_base_of(Path(name)), dtype=dtype, attention=attention), name)
    if name != TINY:
        whole: nn.Module = _pretrained(Phi3VForCausalLM, name, dtype=dtype, attn_implementation=attention)
        return whole
    model = tiny_model(tiny_processor())
    model.name_or_path = TINY  # what an adapter's configuration names as its base
    model.set_attn_implementation(attention)
    cast: nn.Module = model if dtype == "auto" else model.to(dtype)
    return cast


def load_quantised(name: str, *, dtype: torch.dtype, attention: str = "sdpa") -> nn.Module:
    """Return a model with its language part in 4 bits (NF4), for adapters; the vision part and the head stay whole.

    Args:
        name: a folder, a hub id, or `tiny`.
        dtype: what is computed in, and what the rest of the weights is kept in.
        attention: as `load_model` takes it.

    Raises:
        UserError: there is none, or the hub cannot be reached.
    """
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(NOT_QUANTISED),
    )
    options = {"dtype": dtype, "attn_implementation": attention, "quantization_config": settings}
    if name != TINY:
        quantised: nn.Module = _pretrained(Phi3VForCausalLM, name, **options)
        return quantised
    with TemporaryDirectory() as folder:  # weights are quantised while they are loaded
        tiny_model(tiny_processor()).save_pretrained(folder)
        small: Phi3VForCausalLM = _pretrained(Phi3VForCausalLM, folder, **options)
    small.name_or_path = TINY
    return small


def load_for_answers(
    name: str, *, quantised: bool = False, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> nn.Module:
    """Return a model to be asked, on the device of this process.

    Args:
        name: as `load_model` takes it; an adapter that QLoRA has trained comes on its base in 4 bits, as it trained.
        quantised: in 4 bits, whatever it is.
        dtype: what a quantised model computes in, and what the rest of its weights is kept in.
        attention: as `load_model` takes it.

    Raises:
        UserError: there is none, or the hub cannot be reached.
    """
    if quantised or (is_adapter(name) and settings_of(name).get("use_qlora")):
        require("qlora", "bitsandbytes")
        base = load_quantised(_base_of(Path(name)) if is_adapter(name) else name, dtype=dtype, attention=attention)
        return _adapted(base, name) if is_adapter(name) else base  # it lies where it was quantised
    return load_model(name, attention=attention).to(PartialState().device)


def settings_of(name: str) -> dict[str, Any]:
    """Return the settings of the run which made a model, or none if it is not known."""
    path = Path(name) / FILE_NAME
    settings: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return settings


def _adapted(base: nn.Module, name: str) -> nn.Module:
    require("train", "peft")
    from peft import PeftModel

    adapted: nn.Module = _reading(name, lambda: PeftModel.from_pretrained(base, name))
    return adapted


def weights_of(name: str) -> list[tuple[str, int, int]]:
    """Return what changes with the weights of a folder: names, sizes and times of its files; nothing of a hub id."""
    files = (path for pattern in WEIGHTS for path in Path(name).glob(pattern))
    return sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def check_weights(name: str) -> None:
    """Check that a folder holds weights, before anything long is done with it; names of the hub are not looked at.

    Raises:
        UserError: there are none, or there is no such folder.
    """
    folder = Path(name)
    if name == TINY or _is_hub_id(name):
        return
    if not folder.is_dir():
        raise UserError(NO_FOLDER, where=name, fix=WHERE)
    if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        fix = "name the folder that the run or the export has written, not one of a run that did not end"
        raise UserError("holds no weights (no *.safetensors, no *.bin)", where=name, fix=fix)
    if is_adapter(name):
        check_weights(_base_of(folder))


def _is_hub_id(name: str) -> bool:
    return not Path(name).is_dir() and name.count("/") == 1 and not name.startswith((".", "/", "~"))


def is_adapter(name: str) -> bool:
    """Return whether a folder holds an adapter instead of a whole model."""
    return (Path(name) / ADAPTER_CONFIG).is_file()


def _base_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (ValueError, KeyError) as error:
        raise UserError(f"broken {ADAPTER_CONFIG} ({error})", where=folder, fix="train the adapter again") from error


def _pretrained(kind: Any, name: str, **options: Any) -> Any:
    if not Path(name).is_dir() and not _is_hub_id(name):
        raise UserError(NO_FOLDER, where=name, fix=WHERE)
    # Absolute, so that an adapter that is trained on it finds its base from anywhere.
    full = str(Path(name).resolve()) if Path(name).is_dir() else name
    return _reading(name, lambda: kind.from_pretrained(full, **options))


def _reading(name: str, read: Any) -> Any:
    """Call a library's loader, whose many errors all mean that there is no whole model of this name."""
    try:
        return read()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        fix = "name a folder with a whole model, or a hub id; offline, download it first: hf download OWNER/NAME"
        raise UserError(f"cannot load this model ({first_line(error)})", where=name, fix=fix) from error
