from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from phi3v.trainer.model import Phi3VConfig, Phi3VForCausalLM, Phi3VProcessor
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.model.tiny import tiny_config, tiny_model, tiny_processor
from phi3v.trainer.model.vision import merge_patches, tile


@pytest.fixture(scope="module")
def processor() -> Phi3VProcessor:
    return tiny_processor()


@pytest.fixture(scope="module")
def model(processor: Phi3VProcessor) -> Phi3VForCausalLM:
    return tiny_model(processor).eval()


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy())


def question(processor: Phi3VProcessor, *pictures: Image.Image, text: str = "What is this?") -> dict[str, Tensor]:
    tags = "".join(f"<|image_{number}|>" for number in range(1, len(pictures) + 1))
    return dict(processor(f"<|user|>\n{tags}\n{text}<|end|>\n<|assistant|>\n", list(pictures), num_crops=1))


def test_patches_merge_row_pair_column_pair_channel() -> None:
    """Against a loop over positions."""
    features = torch.arange(24 * 24 * 3).float().view(1, 576, 3)

    merged = merge_patches(features)

    for row in range(12):
        for column in range(12):
            own = [features[0, (2 * row + r) * 24 + 2 * column + c] for r in (0, 1) for c in (0, 1)]
            assert torch.equal(merged[0, row, column], torch.cat(own))


def test_maps_are_tiled_row_by_row() -> None:
    maps = torch.arange(6).view(6, 1, 1, 1).expand(6, 2, 2, 1)

    assert tile(maps, 2, 3)[..., 0].tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2


def test_an_image_is_crops_separator_whole_view(model: Phi3VForCausalLM, processor: Phi3VProcessor) -> None:
    embed = model.model.vision_embed_tokens
    made = processor.image_processor.preprocess(picture(0, 64, 32), num_crops=2)
    assert made["crop_counts"].tolist() == [2]

    rows = embed(**made)

    separators = embed.img_projection(torch.stack([embed.sub_GN.flatten(), embed.glb_GN.flatten()]))
    assert len(rows) == processor.image_processor.token_count(64, 32, num_crops=2)
    ends = [index for index, row in enumerate(rows) if torch.allclose(row, separators[0], atol=1e-6)]
    crops = [25 * number + 24 for number in range(12)]
    assert ends == crops + [300 + 1 + 13 * number + 12 for number in range(12)]
    assert torch.allclose(rows[300], separators[1], atol=1e-6)


def test_one_image_does_not_change_anothers_embeddings(model: Phi3VForCausalLM, processor: Phi3VProcessor) -> None:
    embed = model.model.vision_embed_tokens
    pictures = [picture(1), picture(2, 90, 30), picture(3, 20, 80)]

    together = embed(**processor.image_processor.preprocess(pictures))

    alone = [embed(**processor.image_processor.preprocess(own)) for own in pictures]
    assert (together - torch.cat(alone)).abs().max() < 1e-5


def test_the_loss_is_the_mean_over_labelled_tokens(model: Phi3VForCausalLM, processor: Phi3VProcessor) -> None:
    batch = question(processor, picture(0))
    labels = torch.full_like(batch["input_ids"], IGNORED)
    labels[0, -5:] = torch.tensor([5, 6, 7, 8, 9])

    output = model(**batch, labels=labels)

    logits = model(**batch).logits
    assert output.logits is None
    expected = cross_entropy(logits[0, -6:-1], labels[0, -5:])
    assert torch.allclose(output.loss, expected, atol=1e-6)
    assert torch.allclose(model(**batch, labels=labels, num_items_in_batch=20).loss, expected * 5 / 20, atol=1e-6)


def test_eight_steps_of_one_are_one_step_of_eight(model: Phi3VForCausalLM) -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(300, 700, (8, 12), generator=generator)
    labels = ids.clone()
    for row in range(8):
        labels[row, : row + 2] = IGNORED  # answers of unequal length
    count = (labels[:, 1:] != IGNORED).sum()

    together = model(input_ids=ids, labels=labels).loss

    one_by_one = [
        model(input_ids=ids[row : row + 1], labels=labels[row : row + 1], num_items_in_batch=count).loss
        for row in range(8)
    ]
    assert abs(together - sum(one_by_one)) < 1e-6


def test_a_batch_without_labels_has_a_loss_of_zero_with_a_gradient(model: Phi3VForCausalLM) -> None:
    ids = torch.tensor([[1, 300, 301]])

    loss = model(input_ids=ids, labels=torch.full_like(ids, IGNORED)).loss

    assert loss.item() == 0
    loss.backward()
    model.zero_grad()


def test_right_padding_teaches_nothing(model: Phi3VForCausalLM, processor: Phi3VProcessor) -> None:
    ids = torch.tensor([processor.text_ids("<|user|>\nWhat is this?<|end|>\n")])
    padded = torch.cat([ids, torch.full((1, 7), processor.tokenizer.pad_token_id)], dim=1)
    mask = (torch.arange(padded.shape[1]) < ids.shape[1]).long()[None]

    logits = model(input_ids=padded, attention_mask=mask).logits[:, : ids.shape[1]]

    assert (logits - model(input_ids=ids).logits).abs().max() < 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_tower_takes_the_models_attention(processor: Phi3VProcessor, attention: str) -> None:
    model = Phi3VForCausalLM._from_config(tiny_config(processor), attn_implementation=attention)

    tower = model.model.vision_embed_tokens.img_processor.vision_model
    assert tower.config._attn_implementation == model.config._attn_implementation == attention


def test_placeholders_without_pixels_are_refused(model: Phi3VForCausalLM) -> None:
    with pytest.raises(ValueError, match="pixel_values is missing"):
        model(input_ids=torch.tensor([[1, -1, -1]]))


def test_too_few_placeholders_are_refused(model: Phi3VForCausalLM, processor: Phi3VProcessor) -> None:
    batch = question(processor, picture(0))
    batch["input_ids"][batch["input_ids"] == -1] = 1
    batch["input_ids"][0, 3] = -1

    with pytest.raises(ValueError, match="1 image placeholders in input_ids, but 313 image tokens"):
        model(**batch)


def test_counts_that_do_not_fit_the_sizes_are_refused(model: Phi3VForCausalLM, processor: Phi3VProcessor) -> None:
    batch = question(processor, picture(0))
    batch["crop_counts"] += 1

    with pytest.raises(ValueError, match=r"crop_counts \[2\] do not fit image_sizes \[\[336, 336\]\]"):
        model(**batch)


def test_batched_generation_with_left_padding_answers_as_alone(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    from phi3v.trainer.collate import collate
    from phi3v.trainer.encode import Example

    texts = ["What?", "What is shown in this long and winding question?", "No picture here"]
    prompts = [
        question(processor, picture(1), text=texts[0]),
        question(processor, picture(2), picture(3), text=texts[1]),
    ]
    prompts.append(dict(processor(texts[2])))
    examples = [
        Example(
            id=str(number),
            input_ids=prompt["input_ids"][0].tolist(),
            labels=prompt["input_ids"][0].tolist(),
            images={name: tensor for name, tensor in prompt.items() if name not in {"input_ids", "attention_mask"}}
            or None,
            answers=(),
        )
        for number, prompt in enumerate(prompts)
    ]
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": 1}

    batch = collate(examples, pad_id=processor.tokenizer.pad_token_id, side="left")
    del batch["labels"]
    together = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]

    for prompt, written in zip(prompts, together, strict=True):
        alone = model.generate(**prompt, **options)[0, prompt["input_ids"].shape[1] :]
        assert alone.tolist() == written.tolist()


def test_images_are_not_encoded_again_at_each_step(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = model.model.vision_embed_tokens
    calls = []
    forward = embed.forward
    monkeypatch.setattr(embed, "forward", lambda *args: calls.append(1) or forward(*args))

    model.generate(**question(processor, picture(0)), do_sample=False, max_new_tokens=5, eos_token_id=1, pad_token_id=0)

    assert len(calls) == 1


def test_generation_stops_at_the_models_ends(processor: Phi3VProcessor, tmp_path: Path) -> None:
    """The released generation config names </s>, which the model never writes."""
    model = tiny_model(processor)
    model.generation_config = GenerationConfig(eos_token_id=2, bos_token_id=1)
    model.save_pretrained(tmp_path)

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)

    assert loaded.generation_config.eos_token_id == [32000, 32007]


def test_an_ending_of_ones_own_is_kept(processor: Phi3VProcessor, tmp_path: Path) -> None:
    tiny_model(processor).save_pretrained(tmp_path)

    assert Phi3VForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id == processor.end_ids


def test_a_saved_model_reloads_equal_by_the_auto_classes(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, tmp_path: Path
) -> None:
    folder = tmp_path / "a.folder.with.dots"
    model.save_pretrained(folder)

    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()

    assert type(loaded) is Phi3VForCausalLM
    assert type(AutoConfig.from_pretrained(folder)) is Phi3VConfig
    batch = question(processor, picture(0))
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_the_alias_of_the_original_code_is_dropped_in_silence(
    model: Phi3VForCausalLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model.save_pretrained(tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model.safetensors")
    weights["model.vision_embed_tokens.wte.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    _, report = Phi3VForCausalLM.from_pretrained(tmp_path, output_loading_info=True)

    assert not report["unexpected_keys"]
    assert not report["missing_keys"]
    assert "wte" not in caplog.text


def test_the_released_configuration_is_read(shared: Path) -> None:
    config = AutoConfig.from_pretrained(shared / "realdata/tokenizers/phi35_vision")

    assert type(config) is Phi3VConfig
    assert config.vision_config.num_hidden_layers == 24
    assert config.rope_parameters["rope_type"] == "longrope"
    assert len(config.rope_parameters["short_factor"]) == 48
    assert config._attn_implementation is None
    assert not hasattr(config, "auto_map")


def test_full_size_names_and_shapes(shared: Path) -> None:
    """On the meta device: no memory for 4 billion parameters."""
    config = AutoConfig.from_pretrained(shared / "realdata/tokenizers/phi35_vision")
    with torch.device("meta"):
        model = Phi3VForCausalLM(config)

    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    vision = "model.vision_embed_tokens."
    assert sum(weight.numel() for weight in model.parameters()) == 4_146_621_440
    assert shapes["model.embed_tokens.weight"] == shapes["lm_head.weight"] == (32064, 3072)
    assert shapes["model.layers.31.self_attn.qkv_proj.weight"] == (9216, 3072)
    assert shapes["model.layers.31.mlp.gate_up_proj.weight"] == (16384, 3072)
    assert shapes[vision + "glb_GN"] == (1, 1, 4096)
    assert shapes[vision + "sub_GN"] == (1, 1, 1, 4096)
    assert shapes[vision + "img_projection.0.weight"] == (3072, 4096)
    assert shapes[vision + "img_projection.2.weight"] == (3072, 3072)
    assert shapes[vision + "img_processor.vision_model.encoder.layers.23.mlp.fc1.weight"] == (4096, 1024)
    assert shapes[vision + "img_processor.vision_model.embeddings.position_embedding.weight"] == (577, 1024)


def test_the_tiny_model_is_the_same_every_time(processor: Phi3VProcessor, model: Phi3VForCausalLM) -> None:
    torch.manual_seed(5)
    again = tiny_model(processor)

    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
    other = tiny_model(processor, seed=1)
    assert not torch.equal(other.lm_head.weight, model.lm_head.weight)


def test_gradient_checkpointing_changes_nothing(processor: Phi3VProcessor) -> None:
    model = tiny_model(processor).train()
    batch = question(processor, picture(0))
    labels = batch["input_ids"].clamp(min=0)

    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            # renamed in transformers 5.23
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        model.zero_grad()
        model(**batch, labels=labels).loss.backward()
        gradients.append([weight.grad for weight in model.parameters() if weight.grad is not None])

    assert len(gradients[0]) == len(gradients[1])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_an_image_used_twice_is_encoded_once(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = model.model.vision_embed_tokens
    pictures = [picture(1), picture(2), picture(1), picture(2, 64, 32), picture(1)]
    made = processor.image_processor.preprocess(pictures, num_crops=2)
    seen = []
    tower = embed.img_processor.forward
    monkeypatch.setattr(embed.img_processor, "forward", lambda pixels: seen.append(len(pixels)) or tower(pixels))

    together = embed(**made)

    # Pictures 1 and 2 are one crop each, which is their whole view, too; the last is two crops and a whole view.
    assert seen == [1 + 1 + 2 + 1]
    alone = torch.cat([embed(**processor.image_processor.preprocess(own, num_crops=2)) for own in pictures])
    assert (together - alone).abs().max() < 1e-5


def test_an_image_used_twice_gets_both_gradients(processor: Phi3VProcessor) -> None:
    embed = tiny_model(processor).model.vision_embed_tokens
    gradients = []
    for pictures in ([picture(1)], [picture(1), picture(1)]):
        embed.zero_grad()
        embed(**processor.image_processor.preprocess(pictures, num_crops=1)).square().sum().backward()
        gradients.append(embed.img_projection[2].weight.grad.clone())

    assert torch.allclose(gradients[1], 2 * gradients[0], rtol=1e-4)


def test_images_with_different_crops_mix_in_a_batch(model: Phi3VForCausalLM, processor: Phi3VProcessor) -> None:
    embed = model.model.vision_embed_tokens
    parts = [processor.image_processor.preprocess(picture(number), num_crops=number) for number in (1, 4, 16)]

    together = embed(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    assert (together - torch.cat([embed(**part) for part in parts])).abs().max() < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2, "top_k": 1},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "min_new_tokens": 2},
    ],
    ids=str,
)
def test_ways_of_generating_with_several_images(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, options: dict[str, Any]
) -> None:
    """Two rows with one and two images: each gets its own images, however often it is repeated."""
    from phi3v.trainer.collate import collate
    from phi3v.trainer.encode import Example

    prompts = [question(processor, picture(1)), question(processor, picture(2), picture(3))]
    examples = [
        Example(
            id="",
            input_ids=prompt["input_ids"][0].tolist(),
            labels=[0] * prompt["input_ids"].shape[1],
            images={name: prompt[name] for name in ("pixel_values", "crop_counts", "image_sizes")},
            answers=(),
        )
        for prompt in prompts
    ]
    batch = collate(examples, pad_id=processor.tokenizer.pad_token_id, side="left")
    del batch["labels"]
    options = {"max_new_tokens": 4, "eos_token_id": 1, "pad_token_id": 0} | options

    written = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]

    assert len(written) == 2 * options.get("num_return_sequences", 1)
    if "temperature" not in options:
        for number, prompt in enumerate(prompts):
            alone = model.generate(**prompt, **options)[:, prompt["input_ids"].shape[1] :]
            assert written[number * len(alone) : (number + 1) * len(alone)].tolist() == alone.tolist()


@pytest.mark.parametrize("count", [1, 511, 512, 513, 1500])
def test_the_loss_in_chunks_is_the_loss(model: Phi3VForCausalLM, count: int) -> None:
    ids = torch.randint(300, 700, (1, 1600), generator=torch.Generator().manual_seed(2))
    labels = ids.clone()
    labels[0, :-count] = IGNORED

    loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    chunked = model.lm_head.weight.grad.clone()
    model.zero_grad()

    logits = model(input_ids=ids).logits
    plain = cross_entropy(logits[0, :-1], labels[0, 1:])
    plain.backward()
    assert abs(loss - plain) < 3e-6
    assert (chunked - model.lm_head.weight.grad).abs().max() < 1e-6
    model.zero_grad()
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, labels=labels).loss, model(input_ids=ids, labels=labels).loss)


@pytest.mark.skipif(
    not hasattr(functional, "linear_cross_entropy"), reason="this torch has no loss in chunks to compare"
)
def test_the_loss_in_chunks_is_torchs_own(model: Phi3VForCausalLM) -> None:
    ids = torch.randint(300, 700, (1, 1600), generator=torch.Generator().manual_seed(3))
    model(input_ids=ids, labels=ids).loss.backward()
    own = model.lm_head.weight.grad.clone()
    model.zero_grad()

    states = model.model(input_ids=ids).last_hidden_state[0, :-1]
    options = torch.nn.LinearCrossEntropyOptions()
    loss = functional.linear_cross_entropy(states, model.lm_head.weight, ids[0, 1:], options=options)
    loss.backward()

    assert abs(loss - model(input_ids=ids, labels=ids).loss) < 3e-6
    assert (own - model.lm_head.weight.grad).abs().max() < 1e-6


def resaved(model: Phi3VForCausalLM, folder: Path, change: Any) -> Path:
    from safetensors.torch import load_file, save_file

    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.norm.weight"), "1 missing keys: model.norm.weight"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "1 unexpected keys: extra"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    model: Phi3VForCausalLM, tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AutoModelForCausalLM.from_pretrained(resaved(model, tmp_path, change))


def test_a_sharded_checkpoint_loads_equal(model: Phi3VForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2

    loaded = Phi3VForCausalLM.from_pretrained(tmp_path)

    assert all(torch.equal(one, loaded.state_dict()[name]) for name, one in model.state_dict().items())


def test_an_id_outside_the_vocabulary_is_named(model: Phi3VForCausalLM) -> None:
    with pytest.raises(ValueError, match="the id 32000, but the vocabulary ends at 831"):
        model(input_ids=torch.tensor([[1, 32000]]))


def test_the_saved_configuration_is_in_the_released_style(shared: Path, tmp_path: Path) -> None:
    """What other programs read: rope_scaling, rope_theta and torch_dtype, under the released names."""
    import json

    released = AutoConfig.from_pretrained(shared / "realdata/tokenizers/phi35_vision")
    released.save_pretrained(tmp_path)

    saved = json.loads((tmp_path / "config.json").read_text())
    original = json.loads((shared / "realdata/tokenizers/phi35_vision/config.json").read_text())
    left_out = {"_name_or_path", "auto_map", "transformers_version", "_attn_implementation"}
    assert {name: saved.get(name) for name in original if name not in left_out} == {
        name: value for name, value in original.items() if name not in left_out
    }
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == released.rope_parameters


def test_nothing_saved_asks_for_remote_code(shared: Path, tmp_path: Path) -> None:
    from phi3v.trainer.model import Phi3VProcessor as Processor

    Processor.from_pretrained(shared / "realdata/tokenizers/phi35_vision").save_pretrained(tmp_path)
    AutoConfig.from_pretrained(shared / "realdata/tokenizers/phi35_vision").save_pretrained(tmp_path)

    assert [path.name for path in tmp_path.iterdir() if "auto_map" in path.read_text()] == []
    assert (tmp_path / "preprocessor_config.json").exists()


def test_the_model_loads_without_a_question_on_stdin(model: Phi3VForCausalLM, shared: Path, tmp_path: Path) -> None:
    """The released files carry an auto_map, for which transformers asks whether it may run remote code."""
    import json
    import shutil
    import subprocess
    import sys

    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    original = json.loads((shared / "realdata/tokenizers/phi35_vision/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "auto_map": original["auto_map"]}))
    for path in (shared / "realdata/tokenizers/phi35_vision").iterdir():
        if path.name != "config.json":
            shutil.copy(path, tmp_path)
    code = f"""
import phi3v.trainer.model
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor
for kind in (AutoConfig, AutoModelForCausalLM, AutoProcessor):
    print(type(kind.from_pretrained({str(tmp_path)!r})).__module__)
"""

    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )

    assert [line.split(".")[0] for line in done.stdout.splitlines()[-3:]] == ["phi3v"] * 3
