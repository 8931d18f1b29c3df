"""Several samples in one row compute what each computes alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from phi3v.trainer.model import Phi3VForCausalLM, Phi3VProcessor
from phi3v.trainer.model.attention import packed_attention, packed_lengths
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.model.tiny import tiny_model, tiny_processor


@pytest.fixture(scope="module")
def processor() -> Phi3VProcessor:
    return tiny_processor()


def samples(processor: Phi3VProcessor) -> list[dict[str, Tensor]]:
    """Two with images (image ids start at 1 in each), two without, of unequal length and with unequal answers."""
    made = []
    for number, tags in enumerate(("<|image_1|>", "", "<|image_1|><|image_2|>", "")):
        pixels = torch.randint(0, 256, (60, 40 + 20 * number, 3), generator=torch.Generator().manual_seed(number))
        pictures = [Image.fromarray(pixels.to(torch.uint8).numpy())] * tags.count("<")
        pictures = [picture.rotate(90 * index) for index, picture in enumerate(pictures)]
        sample = dict(processor(f"<|user|>\n{tags}\nWhat is it?" + " then" * 3 * number, pictures, num_crops=2))
        labels = torch.full_like(sample["input_ids"], IGNORED)
        labels[0, -(2 + 3 * number) :] = sample["input_ids"][0, -(2 + 3 * number) :].clamp(min=0)
        made.append({**sample, "labels": labels})
    return made


def packed(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    row = {name: torch.cat([part[name] for part in parts], dim=1) for name in ("input_ids", "labels")}
    row["position_ids"] = torch.cat([torch.arange(part["input_ids"].shape[1]) for part in parts])[None]
    with_images = [part for part in parts if "pixel_values" in part]
    images = {
        name: torch.cat([part[name] for part in with_images]) for name in ("pixel_values", "crop_counts", "image_sizes")
    }
    return row | (images if with_images else {})


def model_with(processor: Phi3VProcessor, attention: str) -> Phi3VForCausalLM:
    model = tiny_model(processor)
    model.set_attn_implementation(attention)
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa", "packed_sdpa"])
def test_packed_equals_separate(processor: Phi3VProcessor, attention: str) -> None:
    model = model_with(processor, attention)
    parts = samples(processor)
    count = sum(int((part["labels"][:, 1:] != IGNORED).sum()) for part in parts)

    model(**packed(parts)).loss.backward()
    together = model(**packed(parts), num_items_in_batch=count).loss
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    model.zero_grad()
    alone = [model(**part, num_items_in_batch=count).loss for part in parts]
    sum(alone).backward()  # type: ignore[union-attr]

    other = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    assert together.item() == pytest.approx(sum(loss.item() for loss in alone), rel=1e-6)
    assert torch.nn.functional.cosine_similarity(gradient.double(), other.double(), dim=0) >= 0.999999
    assert gradient.norm().item() == pytest.approx(other.norm().item(), rel=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "packed_sdpa"])
def test_no_sample_sees_another(processor: Phi3VProcessor, attention: str) -> None:
    model = model_with(processor, attention).eval()
    parts = samples(processor)
    row = packed(parts)
    del row["labels"]

    with torch.no_grad():
        logits = model(**row).logits[0]
        alone = [model(**{name: part[name] for name in part if name != "labels"}).logits[0] for part in parts]

    assert (logits - torch.cat(alone)).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "packed_sdpa"])
def test_samples_on_both_sides_of_4096_share_a_row(processor: Phi3VProcessor, attention: str) -> None:
    model = model_with(processor, attention).eval()
    lengths = (40, 4110, 7)
    ids = [torch.randint(300, 700, (length,), generator=torch.Generator().manual_seed(length)) for length in lengths]
    positions = torch.cat([torch.arange(len(own)) for own in ids])[None]

    with torch.no_grad():
        logits = model(input_ids=torch.cat(ids)[None], position_ids=positions).logits[0]
        alone = torch.cat([model(input_ids=own[None]).logits[0] for own in ids])

    assert (logits - alone).abs().max() < 2e-5


def test_the_packed_path_is_really_taken(processor: Phi3VProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense mask would give the same numbers, at the square of the row's length."""
    from transformers import AttentionInterface

    seen: list[Any] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append((kwargs.get("segment_lengths"), args[4] if len(args) > 4 else kwargs.get("attention_mask")))
        return packed_attention(*args, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, "packed_sdpa", spy)
    parts = samples(processor)
    model = model_with(processor, "packed_sdpa")
    lengths = [part["input_ids"].shape[1] for part in parts]

    model(**packed(parts))

    language = seen[-2:]  # after the tower's layers
    assert language == [(lengths, None)] * 2


def test_flash_attention_is_told_the_bounds(processor: Phi3VProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashAttention does not run here; what it is asked is checked."""
    from transformers import AttentionInterface

    seen: list[dict[str, Any]] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append({"mask": args[4], **kwargs})
        return args[1].transpose(1, 2), None

    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", spy)
    model = tiny_model(processor)
    for config in (model.config, model.model.vision_embed_tokens.img_processor.vision_model.config):
        config._attn_implementation = "flash_attention_2"
    parts = samples(processor)
    lengths = [part["input_ids"].shape[1] for part in parts]

    model(**packed(parts))

    asked = seen[-1]
    assert asked["mask"] is None
    bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    assert asked["cu_seq_lens_q"].tolist() == asked["cu_seq_lens_k"].tolist() == bounds
    assert asked["cu_seq_lens_q"].dtype == torch.int32
    assert asked["max_length_q"] == asked["max_length_k"] == max(lengths)
    assert asked["dropout"] == 0.0


@pytest.mark.parametrize(
    ("positions", "mask", "expected"),
    [
        ([[0, 1, 2, 0, 1, 0]], None, [3, 2, 1]),
        ([[0, 1, 2]], None, None),  # one sample
        ([[0]], None, None),
        ([[3, 4, 0, 1]], None, None),  # goes on from a cache
        ([[0, 1, 0, 1], [0, 1, 2, 3]], None, None),  # rows
        ([[0, 0, 1]], [[0, 1, 1]], None),  # padding
    ],
)
def test_what_counts_as_a_packed_row(positions: list[list[int]], mask: Any, expected: list[int] | None) -> None:
    given = None if mask is None else torch.tensor(mask)

    assert packed_lengths(torch.tensor(positions), given) == expected


def test_padding_goes_to_pytorchs_attention(processor: Phi3VProcessor) -> None:
    plain, own = model_with(processor, "sdpa").eval(), model_with(processor, "packed_sdpa").eval()
    ids = torch.randint(300, 700, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9])

    with torch.no_grad():
        one, other = (model(input_ids=ids, attention_mask=mask).logits for model in (plain, own))

    assert torch.equal(one[mask.bool()], other[mask.bool()])
