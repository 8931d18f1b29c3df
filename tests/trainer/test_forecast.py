"""A dry run says what the run does: its figures are those of the run itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phi3v.schema import Conversation, Turn, UserError
from phi3v.trainer.bound import find_processor, most_tokens
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.events import Measured
from phi3v.trainer.fit import Fit
from phi3v.trainer.forecast import BOUND, Forecast, Spread, forecast, lines, verdict
from phi3v.trainer.forecast_scores import Answering
from phi3v.trainer.load import load_processor
from phi3v.trainer.memory import GIB
from phi3v.trainer.model.cache import CACHE, roomy_cache
from phi3v.trainer.model.tiny import tiny_config, tiny_model, tiny_processor
from phi3v.trainer.questions import Question
from phi3v.trainer.run import train


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Thirteen records of 0 to 3 pictures, one of which is no picture, and one too long for what is allowed."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(13):
        names = tuple(f"{number}.{index}.png" for index in range(number % 4))
        for name in names:
            Image.new("RGB", (40 + 30 * number, 60), (20 * number, 90, 10)).save(folder / "images" / name)
        turn = Turn(user="What? " * (500 if number == 4 else 1 + number), assistant=f"{number} " * 3, images=names)
        lines.append(Conversation(id=f"m-{number}", source="mixed", turns=(turn,)).to_line())
    (folder / "images/5.0.png").write_bytes(b"no picture")
    (folder / "mixed_train.jsonl").write_text("".join(lines))
    (folder / "mixed_val.jsonl").write_text(lines[1] + lines[2])
    return folder


def config(data: Path, **options: Any) -> TrainConfig:
    defaults: dict[str, Any] = {
        "output_dir": data.parent / "run",
        "model_name_or_path": "tiny",
        "num_crops": 1,
        "batch_size": 4,
        "max_length": 1000,
        "on_error": "skip",
        "save_steps": 0,
        "num_workers": 0,
        "eval_before": "none",
        "max_new_tokens": 2,
        "tqdm": False,
    }
    return TrainConfig(data_dir=data, **(defaults | options))


def known(settings: TrainConfig) -> Forecast:
    return ended(forecast(settings))


def ended(events: Generator[Any, None, Forecast]) -> Forecast:
    while True:
        try:
            assert isinstance(next(events), Measured)
        except StopIteration as done:
            found: Forecast = done.value
            return found


RUNS: list[dict[str, Any]] = [
    {},
    {"batch_size_per_gpu": 2},
    {"max_tokens_per_gpu": 1500},
    {"use_lora": True, "num_train_epochs": 2},
]


@pytest.mark.parametrize("options", RUNS, ids=str)
def test_tokens_steps_padding_and_what_is_skipped_are_those_of_the_run(data: Path, options: dict[str, Any]) -> None:
    told = known(config(data, dry_run=True, **options))
    steps = told.run.steps.total

    list(train(config(data, logging_steps=steps, **options)))

    run = data.parent / "run"
    state = json.loads((run / "trainer_state.json").read_text())
    ledger = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    trained = [entry for entry in ledger if entry.get("trained")]
    assert state["global_step"] == steps
    log = next(entry for entry in state["log_history"] if "loss" in entry)
    assert log["padding"] == round(told.division.padding, 4)
    assert log["epoch"] == pytest.approx(options.get("num_train_epochs", 1))
    tokens = {told.run.data.records[number].id: told.run.fits[number].tokens for number in told.run.fits.kept}
    assert told.division.tokens == sum(entry["trained"] * tokens[entry["id"]] for entry in trained)
    skipped = {told.run.data.records[number].id: own.reason for number, own in told.run.fits.skipped.items()}
    assert skipped.keys() == {"m-4", "m-5"}
    assert {entry["id"] for entry in ledger if "skipped" in json.dumps(entry)} == skipped.keys()


def test_a_dry_run_leaves_nothing_and_says_all(run: Callable[..., Any], data: Path) -> None:
    done = run(
        "phi3v-train", "--data_dir", data, "--output_dir", data.parent / "run", "--model_name_or_path", "tiny",
        "--num_crops", 1, "--batch_size", 4, "--max_length", 1000, "--on_error", "skip",
        "--dry_run", "--gpus", 2, "--gpu_memory", 24,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert not (data.parent / "run").exists()
    said = done.stdout
    assert "train: 13 records (mixed_train.jsonl)\nscored on: 2 records (mixed_val.jsonl)\n" in said
    assert "skipped: 2 of 13\n  image: 1, such as 'm-5'" in said
    assert "too-long: 1, such as 'm-4'" in said
    assert "steps: 3 of 4 samples" in said
    assert "the slowest GPU of a step does" in said
    assert "full fine-tuning: " in said
    assert "fits 24 GiB" in said
    assert re.search(r"scoring: up to \d x [\d,]+ tokens at a time; their keys and values take 0\.\d\d GiB", said)
    assert "scoring does not fit" not in said
    parts = dict(re.findall(r"^  (\w+) +([\d.]+)$", said, re.MULTILINE))
    assert list(parts) == ["weights", "gradients", "optimizer", "activations", "logits", "buffers", "all"]
    assert float(parts.pop("all")) == pytest.approx(sum(map(float, parts.values())), abs=0.04)
    assert BOUND not in said


def test_a_run_that_does_not_fit_is_told_what_would(data: Path) -> None:
    told = known(config(data, dry_run=True, gpu_memory=0.001))

    assert told.fix is None
    assert list(lines(told))[-1].startswith("does not fit 0.001 GiB")


def test_keys_and_values_are_those_that_are_made_for_the_answers() -> None:
    processor = tiny_processor()
    model, cache = tiny_model(processor), roomy_cache(tiny_config(processor).num_hidden_layers)
    ids = torch.arange(3, 43).repeat(3, 1)
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, **{CACHE: cache})
    held = sum(tensor.untyped_storage().nbytes() for layer in cache.layers for tensor in (layer.keys, layer.values))
    questions = [
        Question(number, "s", 40 - number, Fit(40 - number, 0, 1), "a", listed=False, group=None) for number in range(3)
    ]

    of_all = Answering.of(questions, model.config, torch.float32, batch_size=None, processes=1, longest=20)
    of_two = Answering.of(questions, model.config, torch.bfloat16, batch_size=1, processes=2, longest=20)

    assert of_all == (3, 40, held)
    assert of_two == (1, 40, held / 6)
    assert [of_all.that_fit(room) for room in (-1, held - 1, held, 2 * held)] == [0, 2, 3, 6]


@pytest.mark.parametrize(
    ("answering", "expected"),
    [
        (Answering(8, 1000, 20 * GIB), []),
        (
            Answering(8, 1000, 23 * GIB),
            ["scoring does not fit beside weights and optimizer; --eval_batch_size 7 would"],
        ),
        (Answering(1, 8000, 23 * GIB), ["scoring does not fit beside weights and optimizer; fewer --num_crops or"]),
        (None, []),
    ],
)
def test_scores_that_do_not_fit_are_told_the_batch_that_would(
    data: Path, answering: Answering | None, expected: list[str]
) -> None:
    """Of 24 GiB a tenth is left, and the tiny model takes 6 MB."""
    told = replace(known(config(data, dry_run=True, gpu_memory=24)), answering=answering)

    first, *more = verdict(told, 24)

    assert first.startswith("fits 24 GiB")
    assert [line[: len(start)] for line, start in zip(more, expected, strict=True)] == expected


def test_without_a_tokenizer_every_figure_of_texts_is_a_bound(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"  # a configuration, and no tokenizer
    tiny_config(tiny_processor()).save_pretrained(folder)
    options = {"dry_run": True, "max_length": None}
    exact, bound = known(config(data, **options)), known(config(data, model_name_or_path=str(folder), **options))

    assert (exact.exact, bound.exact) == (True, False)
    assert all(more >= less for more, less in zip(bound.run.fits.tokens, exact.run.fits.tokens, strict=True))
    assert list(bound.run.fits.pictures) == list(exact.run.fits.pictures)
    said = list(lines(bound))
    first = next(number for number, line in enumerate(said) if "no tokenizer" in line)
    assert all(line.endswith(BOUND) for line in said[first + 1 :])
    assert len(said) - first > 15
    assert not any(line.endswith(BOUND) for line in lines(exact))


def test_a_folder_that_does_not_exist_is_an_error(data: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        known(config(data, dry_run=True, model_name_or_path=str(data / "nowhere")))


def test_a_name_of_the_hub_without_the_hub_is_a_released_model_with_bounds() -> None:
    processor, exact = find_processor("microsoft/Phi-3.5-vision-instruct")

    assert not exact
    assert processor.tokenizer.model_max_length == 131072


@given(st.text(), st.sampled_from(["", "<|user|>\n", "<|end|>\n<|assistant|>\n", "<|endoftext|>"]))
def test_no_text_has_more_tokens_than_its_bound(text: str, control: str) -> None:
    tokenizer = tiny_processor().tokenizer

    ids = tokenizer(control + text, add_special_tokens=False)["input_ids"]

    assert len(ids) <= most_tokens(control + text)


def test_no_text_has_more_tokens_than_its_bound_with_the_released_tokenizer(shared: Path) -> None:
    tokenizer = load_processor(str(shared / "realdata/tokenizers/phi35_vision")).tokenizer
    naughty = json.loads((shared / "realdata/text/blns.json").read_text())

    for text in [f"<|user|>\n{own}<|end|>\n<|assistant|>\n" for own in naughty]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) <= most_tokens(text), text


def test_a_spread_is_that_of_its_numbers() -> None:
    assert Spread.of(range(1, 101)) == (50.5, 95, 100)
    assert Spread.of([7]) == (7, 7, 7)
    assert Spread.of([1] * 19 + [50]) == (69 / 20, 1, 50)


@pytest.mark.parametrize("option", [{"gpus": 2}, {"gpu_memory": 24.0}])
def test_gpus_are_the_dry_runs(data: Path, option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="add --dry_run"):
        config(data, **option)
