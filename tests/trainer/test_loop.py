"""What a step of training is, in process and tiny."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from phi3v.schema import Conversation, Turn, UserError
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.events import Note
from phi3v.trainer.run import train


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Texts and pictures of many lengths: 13 records, of 1 to 3 images or none."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(13):
        names = tuple(f"{number}.{index}.png" for index in range(number % 4))
        for name in names:
            Image.new("RGB", (40 + 30 * number, 60), (20 * number, 90, 10)).save(folder / "images" / name)
        turn = Turn(user="What? " * (1 + number), assistant=f"{number} " * (1 + number % 5), images=names)
        lines.append(Conversation(id=f"m-{number}", source="mixed", turns=(turn,)).to_line())
    (folder / "mixed_train.jsonl").write_text("".join(lines))
    return folder


def run(data: Path, name: str = "run", **options: Any) -> tuple[Path, list[Any]]:
    defaults: dict[str, Any] = {
        "model_name_or_path": "tiny",
        "num_crops": 1,
        "batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_steps": 0,
        "num_workers": 0,
        "tqdm": False,
    }
    config = TrainConfig(data_dir=data, output_dir=data.parent / name, **(defaults | options))
    return config.output_dir, list(train(config))


def log(out: Path, key: str) -> list[float]:
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in history if "loss" in entry]


def ledger(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_steps_learn_what_padded_ones_do(data: Path, attention: Any) -> None:
    plain, _ = run(data, "plain", batch_size_per_gpu=2, attention=attention)
    packed, _ = run(data, "packed", max_tokens_per_gpu=1200, attention=attention)

    assert log(packed, "loss") == pytest.approx(log(plain, "loss"), rel=2e-5)
    assert log(packed, "grad_norm") == pytest.approx(log(plain, "grad_norm"), rel=2e-4)
    assert max(log(packed, "padding")) == 0
    assert max(log(plain, "padding")) > 0.1
    assert ledger(plain) == ledger(packed)


def test_the_log_says_how_fast_and_how_long_it_waits(data: Path) -> None:
    out, _ = run(data, max_steps=2)

    for key in ("samples_per_second", "tokens_per_second"):
        assert min(log(out, key)) > 0
    assert all(0 <= share < 1 for share in log(out, "waiting_for_data"))
    assert log(out, "epoch") == [0.25, 0.5]


def test_every_sample_is_in_the_ledger_as_often_as_it_was_trained(data: Path) -> None:
    out, _ = run(data, max_steps=6)

    entries = ledger(out)

    assert [entry["id"] for entry in entries] == [f"m-{number}" for number in range(13)]
    # 4 steps are an epoch of 13 samples; the other two hold 8 of them.
    assert Counter(entry["trained"] for entry in entries) == {2: 8, 1: 5}
    assert {entry["file"] for entry in entries} == {"mixed_train.jsonl"}


def test_samples_that_do_not_fit_are_skipped_with_their_reason(data: Path) -> None:
    out, events = run(data, max_length=500)

    entries = {entry["id"]: entry for entry in ledger(out)}

    assert entries["m-2"]["skipped"] == "too-long"  # two images of 313 tokens, and the text
    assert "500" in entries["m-2"]["reason"]
    assert entries["m-2"]["trained"] == 0
    assert entries["m-1"]["tokens"] <= 500
    assert any("6 skipped" in event.text for event in events if isinstance(event, Note))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_later_is_left_out_and_told(
    data: Path, workers: int, damage: Callable[[Path], None]
) -> None:
    damage(data / "images/3.1.png")

    out, events = run(data, num_workers=workers, on_error="skip")

    entries = {entry["id"]: entry for entry in ledger(out)}
    assert (entries["m-3"]["trained"], entries["m-3"]["skipped"]) == (0, "image")
    assert "cannot read this image of record 'm-3'" in entries["m-3"]["reason"]
    assert sum(entry["trained"] for entry in entries.values()) == 12
    assert any("1 pictures could not be read" in event.text for event in events if isinstance(event, Note))


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_a_picture_that_is_none_is_left_out_from_the_start(data: Path, content: bytes | None) -> None:
    picture = data / "images/3.1.png"
    picture.unlink() if content is None else picture.write_bytes(content)

    out, events = run(data, on_error="skip")

    entry = next(entry for entry in ledger(out) if entry["id"] == "m-3")
    assert (entry["trained"], entry["skipped"]) == (0, "image")
    assert "3.1.png" in entry["reason"]
    assert any("1 skipped" in event.text for event in events if isinstance(event, Note))
    with pytest.raises(UserError, match=r"mixed_train.jsonl:4:\d+: image-"):
        run(data, overwrite=True)


def test_a_loss_that_is_no_number_stops_with_the_samples(data: Path) -> None:
    with pytest.raises(UserError, match=r"the loss of step \d+ is (nan|inf); samples: \['m-\d+'") as caught:
        run(data, learning_rate=1000, wd=1000, max_steps=30, warmup_steps=0)
    assert "--learning_rate" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "still"),
    [
        ({"vision_learning_rate": 0.0}, ["img_processor"]),
        ({"projector_learning_rate": 0.0}, ["img_projection", "glb_GN", "sub_GN"]),
        ({"vision_learning_rate": 0.0, "projector_learning_rate": 0.0}, ["vision_embed_tokens"]),
    ],
)
def test_parts_have_learning_rates_of_their_own(data: Path, options: dict[str, float], still: list[str]) -> None:
    from phi3v.trainer.load import load_model

    out, _ = run(data, wd=0.1, warmup_steps=0, **options)

    before = dict(load_model("tiny").named_parameters())
    unused = (".layers.2.", "post_layernorm")  # of the tower; they never train
    moved = {
        name: not torch.equal(weight, before[name])
        for name, weight in load_model(str(out)).named_parameters()
        if not any(part in name for part in unused)
    }
    assert moved
    for name, changed in moved.items():
        assert changed != any(part in name for part in still), name


def test_a_resumed_run_refuses_other_settings(data: Path) -> None:
    run(data, max_steps=1, save_steps=1)

    with pytest.raises(UserError, match="--learning_rate was 0.001 and is 0.002") as caught:
        run(data, max_steps=1, save_steps=1, learning_rate=0.002, resume="auto", num_workers=1)
    assert "--num_workers" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_qlora_trains_adapters_on_four_bits(data: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: QLoRA is not shown")
    from phi3v.trainer.load import is_adapter, load_model

    out, events = run(data, use_qlora=True, lora_rank=4, max_steps=8)

    losses = log(out, "loss")
    assert losses[-1] < losses[0]
    assert is_adapter(str(out))
    assert any(event.text.startswith("QLoRA: ") for event in events if isinstance(event, Note))
    names = [name for name, _ in load_model(str(out)).named_parameters() if "lora_" in name]
    assert any("img_processor" in name for name in names)
    assert any("lm_head" in name for name in names)


@pytest.mark.parametrize(
    ("options", "marker"), [({"use_dora": True}, "lora_magnitude"), ({"use_rslora": True}, "lora_A")]
)
def test_variants_of_lora(data: Path, options: dict[str, bool], marker: str) -> None:
    from safetensors.torch import load_file

    out, _ = run(data, use_lora=True, lora_rank=4, lora_targets="qkv_proj, o_proj", max_steps=1, **options)

    names = load_file(out / "adapter_model.safetensors")
    assert any(marker in name for name in names)
    assert all("qkv_proj" in name or "o_proj" in name for name in names)
    assert json.loads((out / "adapter_config.json").read_text()) | options == json.loads(
        (out / "adapter_config.json").read_text()
    )


def test_targets_that_name_nothing_are_an_error(data: Path) -> None:
    with pytest.raises(UserError, match="--lora_targets nothing_here: "):
        run(data, use_lora=True, lora_targets="nothing_here")
