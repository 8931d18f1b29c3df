"""Prove on a checkpoint at hand that it is loaded as it was meant: what `phi3v-model selfcheck` prints.

What is covered: names, shapes and types of the stored weights, the loss on a picture whose answer is known, an answer
that ends, and, where the original code can be had, its logits against ours.
What is not: speed, memory, and every path but inference.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from torch import nn

from phi3v.schema import UserError
from phi3v.trainer.load import is_adapter, load_model, load_processor
from phi3v.trainer.model import Phi3VConfig, Phi3VForCausalLM, Phi3VProcessor
from phi3v.trainer.model.modeling import IGNORED

QUESTION = "<|user|>\n<|image_1|>\nWhich colour is the disc? Answer with one word.<|end|>\n<|assistant|>\n"
ANSWER = "Red<|end|>\n"
ALIAS = "model.vision_embed_tokens.wte.weight"  # of embed_tokens, in the original code
NEAR = 2e-2  # logits of two float32 implementations of a full-size model; 2e-5 for a tiny one


class Check(NamedTuple):
    """One thing that was looked at."""

    what: str
    good: bool
    detail: str


def selfcheck(name: str, *, against_remote: bool = False) -> Iterator[Check]:
    """Yield what was checked of a model.

    Args:
        name: a folder, a hub id, or `tiny`.
        against_remote: run the original code that the checkpoint names, too; it is downloaded and executed.

    Raises:
        UserError: there is no such model.
    """
    if is_adapter(name):
        raise UserError(
            "is an adapter, not a whole model", where=name, fix="name its base model, or merge the two first"
        )
    if Path(name).is_dir():
        yield from _stored_weights(Path(name))
    model, processor = load_model(name).eval(), load_processor(name)
    yield _loss(model, processor)
    yield _ending(model, processor)
    if against_remote:
        yield _remote(model, processor, name)


def disc() -> Image.Image:
    """Return the picture: a red disc on white."""
    picture = Image.new("RGB", (336, 336), "white")
    ImageDraw.Draw(picture).ellipse((68, 68, 268, 268), fill="red")
    return picture


def _stored_weights(folder: Path) -> Iterator[Check]:
    with torch.device("meta"):
        expected = Phi3VForCausalLM(Phi3VConfig.from_pretrained(folder)).state_dict()
    stored: dict[str, tuple[int, ...]] = {}
    types = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  # not a dict
                part = file.get_slice(key)
                stored[key] = tuple(part.get_shape())
                types.add(part.get_dtype())
    stored.pop(ALIAS, None)
    missing, unexpected = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    yield Check("names of the weights", not missing and not unexpected, _few(len(stored), missing, unexpected))
    wrong = [key for key in expected.keys() & stored.keys() if tuple(expected[key].shape) != stored[key]]
    yield Check(
        "shapes of the weights", not wrong, f"{wrong[0]} is {stored[wrong[0]]}" if wrong else "all as configured"
    )
    yield Check("types of the weights", len(types) == 1 and types <= {"F32", "BF16", "F16"}, ", ".join(sorted(types)))


def _few(count: int, missing: list[str], unexpected: list[str]) -> str:
    parts = [f"{count} tensors"]
    parts += [f"{len(missing)} missing, such as {missing[0]}"] if missing else []
    parts += [f"{len(unexpected)} unexpected, such as {unexpected[0]}"] if unexpected else []
    return ", ".join(parts)


def _inputs(processor: Phi3VProcessor, text: str) -> dict[str, Any]:
    return dict(processor(text, disc(), num_crops=4))


@torch.no_grad()
def _loss(model: nn.Module, processor: Phi3VProcessor) -> Check:
    batch = _inputs(processor, QUESTION + ANSWER)
    prompt = _inputs(processor, QUESTION)["input_ids"].shape[1]
    labels = batch["input_ids"].clone()
    labels[:, :prompt] = IGNORED
    loss = model(**batch, labels=labels).loss.item()
    guess = math.log(model.get_output_embeddings().weight.shape[0])  # type: ignore[operator]
    detail = f"{loss:.2f} for the right answer; {guess:.2f} is a guess among all tokens"
    return Check("loss on a picture of a red disc", math.isfinite(loss) and loss < 1.5 * guess, detail)


def _ending(model: nn.Module, processor: Phi3VProcessor) -> Check:
    generate: Any = model.generate
    ends = generate.__self__.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    good = set(processor.end_ids) <= set(ends)
    return Check("where generation stops", good, f"at {ends}; turns end with {processor.end_ids}")


@torch.no_grad()
def _remote(model: nn.Module, processor: Phi3VProcessor, name: str) -> Check:
    theirs = _original(model, name)
    batch = _inputs(processor, QUESTION)
    original = processor.image_processor.preprocess(disc(), num_crops=4, layout="original")
    logits = model(**batch).logits[0, -1]
    # Its cache is of another time: without it, its eager forward runs on transformers 5.
    expected = theirs(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        pixel_values=original["pixel_values"],
        image_sizes=original["image_sizes"],
        use_cache=False,
    ).logits[0, -1]
    worst = (logits - expected.float()).abs().max().item()
    same = int(logits.argmax()) == int(expected.argmax())
    return Check("logits against the original code", same and worst < NEAR, f"worst difference {worst:.1e}")


def _original(model: nn.Module, name: str) -> nn.Module:
    """Return the original code's model, which shares our model's weights.

    Its own `from_pretrained` breaks on transformers 5, and the Auto classes would give ours: so its classes are
    fetched by the names that the checkpoint's `auto_map` has.
    """
    from transformers import PreTrainedConfig
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    content, _ = PreTrainedConfig.get_config_dict(name)
    classes = content.get("auto_map", {})
    if not {"AutoConfig", "AutoModelForCausalLM"} <= classes.keys():
        raise UserError("this checkpoint names no original code", where=name, fix="name the released model's hub id")
    try:
        config = get_class_from_dynamic_module(classes["AutoConfig"], name).from_pretrained(name)
        config._attn_implementation = "eager"  # noqa: SLF001  # transformers has no public name for it
        theirs: nn.Module = get_class_from_dynamic_module(classes["AutoModelForCausalLM"], name)(config)
        theirs.load_state_dict(_for_original(model.state_dict(), theirs.state_dict().keys()), assign=True)
    except Exception as error:  # foreign code, written for other versions: anything may go wrong
        what = f"the original code does not load ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        raise UserError(what, where=name, fix="leave --against_remote out") from error
    return theirs.eval()


def _for_original(weights: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return our weights under the original code's names as they come out on these transformers.

    It reuses CLIP's classes, which lost their level `vision_model` in transformers 5.
    """
    renamed = {key if key in names else key.replace(".vision_model.", "."): value for key, value in weights.items()}
    return renamed | ({ALIAS: weights["model.embed_tokens.weight"]} if ALIAS in names else {})
