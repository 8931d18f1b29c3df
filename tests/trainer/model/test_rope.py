from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from phi3v.trainer.model import Phi3VConfig, Phi3VForCausalLM, Phi3VProcessor
from phi3v.trainer.model.rope import LongRotaryEmbedding, sample_lengths
from phi3v.trainer.model.tiny import tiny_model, tiny_processor

LIMIT = 4096


@pytest.fixture(scope="module")
def processor() -> Phi3VProcessor:
    return tiny_processor()


@pytest.fixture(scope="module")
def model(processor: Phi3VProcessor) -> Phi3VForCausalLM:
    return tiny_model(processor).eval()


def text(length: int, seed: int) -> Tensor:
    return torch.randint(300, 700, (length,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("which", ["short", "long"])
@pytest.mark.parametrize("family", ["phi35_vision", "phi3_vision"])
def test_tables_are_equal_to_the_originals_to_the_bit(shared: Path, family: str, which: str) -> None:
    """Phi-3.5 by its released configuration; of Phi-3's every second factor is at hand, in a head half as wide."""
    goldens = load_file(shared / "goldens" / "rope_released_config.safetensors")
    released = shared / "realdata/tokenizers/phi35_vision/config.json"
    path = released if family == "phi35_vision" else shared / "goldens/config_phi3_vision.json"
    content = json.loads(path.read_text())
    content.pop("_tiny_clip", None)
    rope = LongRotaryEmbedding(Phi3VConfig.from_dict(content))
    at_hand = slice(None) if family == "phi35_vision" else slice(None, None, 2)
    positions = goldens[f"{which}.position_ids"]
    filler = torch.arange(5000 if which == "long" else 1)[None]  # makes the sample as long as it must be

    turned = rope(torch.zeros(1), torch.cat([filler, positions.clamp(min=1)], dim=1))

    expected = goldens[f"{family}.{which}.inv_freq"][at_hand]
    assert torch.equal(rope._frequencies(torch.device("cpu"))[which == "long"], expected)
    not_at_zero = positions[0] > 0  # 0 would begin a new sample here
    for name, table in zip(("cos", "sin"), turned, strict=True):
        golden = goldens[f"{family}.{which}.{name}"][0, :, at_hand]
        assert torch.equal(table[0, filler.shape[1] :][not_at_zero], golden[not_at_zero])
        assert not_at_zero.sum() >= 10


def test_lengths_of_samples_in_rows() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 0], [0, 0, 0, 1, 2, 3, 3]])

    assert sample_lengths(positions).tolist() == [[3, 3, 3, 2, 2, 1, 1], [1, 1, 4, 4, 4, 4, 4]]
    assert sample_lengths(torch.tensor([[4096]])).tolist() == [[4097]]  # one step of generation


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_long_neighbour_does_not_change_a_short_samples_logits(model: Phi3VForCausalLM, side: str) -> None:
    short, long = text(50, 1), text(LIMIT + 10, 2)
    padding = torch.zeros(len(long) - len(short), dtype=torch.long)
    row = torch.cat([padding, short] if side == "left" else [short, padding])
    mask = torch.ones(2, len(long), dtype=torch.long)
    mask[0] = torch.cat([padding, torch.ones(50)] if side == "left" else [torch.ones(50), padding])

    with torch.no_grad():
        together = model(input_ids=torch.stack([row, long]), attention_mask=mask).logits
        alone = [model(input_ids=own[None]).logits[0] for own in (short, long)]

    assert (together[0][mask[0].bool()] - alone[0]).abs().max() < 1e-5
    assert (together[1] - alone[1]).abs().max() < 2e-5


def test_the_two_sets_of_factors_differ_in_the_logits(model: Phi3VForCausalLM) -> None:
    """What the tests above would not notice if both sets were one."""
    ids = text(LIMIT + 1, 3)[None]

    with torch.no_grad():
        beyond, within = model(input_ids=ids).logits, model(input_ids=ids[:, :-1]).logits

    assert (beyond[:, :-1] - within).abs().max() > 1e-2


def test_casting_the_model_leaves_the_frequencies_alone(processor: Phi3VProcessor) -> None:
    model = tiny_model(processor)
    ids = text(60, 4)[None]
    expected = model.model.rotary_emb(torch.zeros(1), torch.arange(60)[None])

    model.bfloat16()

    cast = model.model.rotary_emb(torch.zeros(1), torch.arange(60)[None])
    assert all(torch.equal(one, other) for one, other in zip(expected, cast, strict=True))
    assert not list(model.model.rotary_emb.buffers())
    assert model(input_ids=ids).logits.dtype == torch.bfloat16


def test_a_batch_goes_on_beyond_the_short_factors_row_by_row(model: Phi3VForCausalLM) -> None:
    """Rows that cross at different steps, left-padded: each writes what it writes alone."""
    lengths = (LIMIT - 2, LIMIT - 5, 30)
    prompts = [text(length, length) for length in lengths]
    longest = max(lengths)
    rows = torch.stack([torch.cat([torch.zeros(longest - len(own), dtype=torch.long), own]) for own in prompts])
    mask = torch.stack([(torch.arange(longest) >= longest - len(own)).long() for own in prompts])
    options = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": 1, "pad_token_id": 0}

    together = model.generate(input_ids=rows, attention_mask=mask, **options)[:, longest:]

    for prompt, written in zip(prompts, together, strict=True):
        alone = model.generate(input_ids=prompt[None], attention_mask=torch.ones(1, len(prompt)).long(), **options)
        assert written.tolist() == alone[0, len(prompt) :].tolist()


def test_crossing_in_steps_equals_a_forward_from_the_start(model: Phi3VForCausalLM) -> None:
    prompt = text(LIMIT - 2, 9)[None]

    written = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=6,
        eos_token_id=1,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )

    for step, logits in enumerate(written.logits):
        with torch.no_grad():
            expected = model(input_ids=written.sequences[:, : LIMIT - 2 + step], logits_to_keep=1).logits[:, -1]
        assert (logits - expected).abs().max() < 2e-5
