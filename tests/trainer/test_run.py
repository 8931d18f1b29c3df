"""Training end to end, tiny: what a user of `phi3v-train` relies on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from phi3v.schema import Conversation, Turn, UserError
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.data import Records
from phi3v.trainer.events import Note, Scored
from phi3v.trainer.plan import default_crops
from phi3v.trainer.run import train

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


def write_split(folder: Path, split: str, count: int, *, images: int = 1) -> None:
    """Plain colours to name: what even the tiny model learns in a few steps."""
    lines = []
    for number in range(count):
        name, colour = list(COLOURS.items())[number % 2]
        paths = tuple(f"{split}/{number}.{index}.png" for index in range(images))
        for index, path in enumerate(paths):
            (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40 + number, 40), tuple(max(0, value - 5 * index) for value in colour)).save(
                folder / "images" / path
            )
        turn = Turn(user="Which colour?", assistant=name, images=paths)
        lines.append(Conversation(id=f"{split}-{number}", source="colours", turns=(turn,)).to_line())
    (folder / f"colours_{split}.jsonl").write_text("".join(lines))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_split(tmp_path / "data", "train", 16)
    write_split(tmp_path / "data", "val", 4)
    return tmp_path / "data"


def config(data: Path, **options: Any) -> TrainConfig:
    defaults: dict[str, Any] = {
        "output_dir": data.parent / "run",
        "model_name_or_path": "tiny",
        "num_crops": 1,
        "batch_size": 4,
        "batch_size_per_gpu": 2,
        "learning_rate": 1e-3,
        "num_workers": 0,
        "max_new_tokens": 4,
        "tqdm": False,
    }
    return TrainConfig(data_dir=data, **(defaults | options))


def logits_in_a_fresh_process(folder: Path, image: Path) -> list[float]:
    code = f"""
import torch
from PIL import Image
from phi3v.trainer.load import load_model, load_processor
processor = load_processor({str(folder)!r})
inputs = processor("<|user|>\\n<|image_1|>\\nWhich colour?<|end|>\\n<|assistant|>\\n", Image.open({str(image)!r}))
with torch.no_grad():
    print(load_model({str(folder)!r}).eval()(**inputs).logits[0, -1].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    values: list[float] = json.loads(done.stdout.splitlines()[-1])
    return values


@pytest.mark.parametrize("options", [{}, {"freeze_vision_model": True}, {"use_lora": True, "lora_rank": 4}], ids=str)
def test_a_run_trains_scores_and_saves_what_reloads_equal(
    data: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi3v.trainer import run

    kept: dict[str, Any] = {}

    def remember(*args: Any, **kwargs: Any) -> Any:
        kept["trainer"] = run_trainer(*args, **kwargs)
        return kept["trainer"]

    run_trainer = run.ScoredTrainer
    monkeypatch.setattr(run, "ScoredTrainer", remember)
    settings = config(data, max_steps=3, **options)

    events = list(train(settings))

    scores = [event for event in events if isinstance(event, Scored)]
    assert [(score.when, score.total) for score in scores] == [("before", 4), ("after", 4)]
    assert any("parameters train" in event.text for event in events if isinstance(event, Note))
    out = settings.output_dir
    for when in ("before", "after"):
        saved = json.loads((out / f"eval_{when}.json").read_text())
        assert [entry["id"] for entry in saved["answers_unique"]] == [f"val-{number}" for number in range(4)]
        assert [entry["answer"] for entry in saved["answers_unique"]] == ["red", "blue", "red", "blue"]
        assert (
            saved["accuracy"]
            == sum(
                entry["answer"] == text["generated_text"].strip().rstrip(".").lower()
                for entry, text in zip(saved["answers_unique"], saved["generated_texts_unique"], strict=True)
            )
            / 4
        )
    model = kept["trainer"].model.eval()
    image = data / "images/val/0.0.png"
    from phi3v.trainer.load import load_processor

    with Image.open(image) as picture, torch.no_grad():
        inputs = load_processor(str(out))(
            "<|user|>\n<|image_1|>\nWhich colour?<|end|>\n<|assistant|>\n", picture.convert("RGB")
        )
        expected = model(**inputs).logits[0, -1]
    fresh = torch.tensor(logits_in_a_fresh_process(out, image))
    assert (fresh - expected).abs().max() < 1e-5
    assert load_processor(str(out)).image_processor.num_crops == 1


def test_training_lowers_the_loss_by_what_it_sees(data: Path) -> None:
    settings = config(data, num_train_epochs=6, logging_steps=1)

    list(train(settings))

    log = json.loads((settings.output_dir / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 24
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


def test_the_same_seed_gives_the_same_run_however_the_batch_is_split(data: Path) -> None:
    """Loss is per labelled token of the whole batch, so 4 x 1 is 2 x 2 is 1 x 4."""
    first_losses = []
    for at_once in (1, 2, 4):
        settings = config(data, max_steps=2, batch_size_per_gpu=at_once, logging_steps=1, overwrite=True)
        list(train(settings))
        log = json.loads((settings.output_dir / "trainer_state.json").read_text())["log_history"]
        first_losses.append([entry["loss"] for entry in log if "loss" in entry])

    for losses in first_losses[1:]:
        assert losses == pytest.approx(first_losses[0], abs=1e-4)


def test_a_run_without_validation_says_so(data: Path) -> None:
    (data / "colours_val.jsonl").unlink()

    events = list(train(config(data, max_steps=1)))

    assert not [event for event in events if isinstance(event, Scored)]
    assert any("nothing is scored" in event.text for event in events if isinstance(event, Note))


def test_records_with_and_without_images_train_together(data: Path) -> None:
    path = data / "colours_train.jsonl"
    text_only = Conversation(id="t", source="s", turns=(Turn(user="Which colour?", assistant="none"),))
    path.write_text(text_only.to_line() + path.read_text())
    settings = config(data, num_train_epochs=1, batch_size=17, batch_size_per_gpu=17, logging_steps=1)

    list(train(settings))

    log = json.loads((settings.output_dir / "trainer_state.json").read_text())["log_history"]
    assert log[0]["loss"] > 0
    assert log[0]["step"] == 1


@pytest.mark.parametrize(("images", "expected"), [(1, 16), (2, 4)])
def test_crops_by_default_as_in_the_recipe(tmp_path: Path, images: int, expected: int) -> None:
    write_split(tmp_path, "train", 2, images=images)

    assert default_crops(Records([tmp_path / "colours_train.jsonl"])) == expected


def test_another_run_is_not_overwritten_by_accident(data: Path) -> None:
    (data.parent / "run").mkdir()
    (data.parent / "run" / "train_config.json").touch()

    with pytest.raises(UserError, match="run: holds another run\n  fix: .*--resume auto, or add --overwrite"):
        list(train(config(data)))


def test_nothing_to_learn_is_refused(data: Path) -> None:
    open_record = Conversation(id="o", source="s", turns=(Turn(user="Q"),))
    (data / "colours_train.jsonl").write_text(open_record.to_line())

    with pytest.raises(UserError, match="unanswered: /conversations/0"):
        list(train(config(data)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_in_training_is_named_in_one_line(
    data: Path, workers: int, damage: Callable[[Path], None]
) -> None:
    damage(data / "images/train/3.0.png")

    with pytest.raises(UserError) as caught:
        list(train(config(data, num_workers=workers)))

    assert str(caught.value).startswith(f"{data / 'images/train/3.0.png'}: cannot read this image of record 'train-3'")
    assert "Traceback" not in str(caught.value)


def test_a_missing_model_is_named(data: Path) -> None:
    with pytest.raises(UserError, match="/no/such/model: no such folder"):
        list(train(config(data, model_name_or_path="/no/such/model")))
    with pytest.raises(UserError, match="nobody/nothing: cannot load this model"):
        list(train(config(data, model_name_or_path="nobody/nothing", overwrite=True)))


def test_overwriting_an_adapter_leaves_the_new_model(data: Path) -> None:
    from phi3v.trainer.load import is_adapter, load_model

    list(train(config(data, max_steps=1, use_lora=True, lora_rank=4)))
    assert is_adapter(str(data.parent / "run"))

    list(train(config(data, max_steps=1, overwrite=True)))

    assert not is_adapter(str(data.parent / "run"))
    assert type(load_model(str(data.parent / "run"))).__name__ == "Phi3VForCausalLM"


def test_a_start_that_failed_does_not_lock_the_folder(data: Path) -> None:
    with pytest.raises(UserError, match="cannot load this model"):
        list(train(config(data, model_name_or_path="nobody/nothing")))

    assert list(train(config(data, max_steps=1)))


def test_an_adapter_is_not_trained_on(data: Path) -> None:
    list(train(config(data, max_steps=1, use_lora=True, lora_rank=4)))

    with pytest.raises(UserError, match="is an adapter, not a whole model"):
        list(train(config(data, model_name_or_path=str(data.parent / "run"), output_dir=data.parent / "other")))


def test_an_adapter_finds_its_base_from_anywhere(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phi3v.trainer.load import load_model

    list(train(config(data, max_steps=1)))
    monkeypatch.chdir(data.parent)
    list(train(config(data, max_steps=1, model_name_or_path="run", output_dir=Path("adapter"), use_lora=True)))

    monkeypatch.chdir("/")
    assert load_model(str(data.parent / "adapter"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("model.safetensors", b"cut"),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"{}"),
    ],
)
def test_a_damaged_model_is_named(data: Path, name: str, content: bytes) -> None:
    from phi3v.trainer.load import load_model
    from phi3v.trainer.model.tiny import tiny_model, tiny_processor

    tiny_model(tiny_processor()).save_pretrained(data.parent / "model")
    (data.parent / "model" / name).write_bytes(content)

    with pytest.raises(UserError, match=f"{data.parent}/model: "):
        load_model(str(data.parent / "model"))


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--max_tokens_per_gpu 700"], ids=["padded", "packed"])
def test_two_processes_train_as_the_help_says(data: Path, options: str) -> None:
    """One speaks, scores and writes; the losses, the samples and the ledger are those of one process."""
    arguments = "--model_name_or_path tiny --num_crops 1 --batch_size 4 --max_steps 5 --logging_steps 1"
    arguments += f" --learning_rate 1e-3 --num_workers 0 --max_new_tokens 4 {options}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    runs = {"one": [sys.executable, "-m", "phi3v.trainer"], "two": [*torchrun, "-m", "phi3v.trainer"]}

    losses = {}
    for name, command in runs.items():
        full = [*command, "--data_dir", str(data), "--output_dir", str(data.parent / name), *arguments.split()]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(full, capture_output=True, text=True, check=False, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("accuracy before") == done.stdout.count("accuracy after") == 1
        log = json.loads((data.parent / name / "trainer_state.json").read_text())["log_history"]
        losses[name] = [entry["loss"] for entry in log if "loss" in entry]

    assert losses["two"] == pytest.approx(losses["one"], abs=2e-5)
    assert len({(data.parent / name / "samples.jsonl").read_bytes() for name in runs}) == 1
