from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from phi3v.schema import UserError
from phi3v.trainer.model.tiny import tiny_model, tiny_processor
from phi3v.trainer.selfcheck import selfcheck


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


def change(folder: Path, edit: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_whole_model_passes(folder: Path) -> None:
    checks = {check.what: check for check in selfcheck(str(folder))}

    assert all(check.good for check in checks.values())
    assert checks["names of the weights"].detail == "76 tensors"
    assert checks["types of the weights"].detail == "F32"
    assert len(checks) == 5


def test_the_original_codes_alias_is_no_fault(folder: Path) -> None:
    alias = "model.vision_embed_tokens.wte.weight"
    change(folder, lambda weights: weights.update({alias: weights["model.embed_tokens.weight"].clone()}))

    assert all(check.good for check in selfcheck(str(folder)))


@pytest.mark.parametrize(
    ("edit", "what", "detail"),
    [
        (lambda w: w.pop("model.norm.weight"), "names of the weights", "1 missing, such as model.norm.weight"),
        (lambda w: w.update(x=torch.zeros(1)), "names of the weights", "1 unexpected, such as x"),
        (
            lambda w: w.update({"model.norm.weight": torch.zeros(7)}),
            "shapes of the weights",
            "model.norm.weight is (7,)",
        ),
    ],
)
def test_a_wrong_weight_is_named_before_it_is_loaded(folder: Path, edit: Any, what: str, detail: str) -> None:
    change(folder, edit)
    checks = []

    with pytest.raises(UserError, match="cannot load this model"):
        for check in selfcheck(str(folder)):
            checks.append(check)  # noqa: PERF402  # keeps what comes before the error

    wrong = {check.what: check.detail for check in checks if not check.good}
    assert detail in wrong[what]


def test_weights_that_make_no_sense_have_a_senseless_loss(folder: Path) -> None:
    change(folder, lambda weights: weights.update({"lm_head.weight": weights["lm_head.weight"] * 100}))

    wrong = [check.what for check in selfcheck(str(folder)) if not check.good]

    assert wrong == ["loss on a picture of a red disc"]


def test_a_generation_that_does_not_stop_is_told(folder: Path) -> None:
    import json

    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 5, "bos_token_id": 1}))

    wrong = [check.what for check in selfcheck(str(folder)) if not check.good]

    assert wrong == ["where generation stops"]


def test_without_original_code_there_is_nothing_to_compare_with(folder: Path) -> None:
    with pytest.raises(UserError, match="names no original code"):
        list(selfcheck(str(folder), against_remote=True))


def test_the_command_exits_with_1_if_something_is_wrong(run: Callable[..., Any], folder: Path) -> None:
    assert run("phi3v-model", "selfcheck", folder).returncode == 0
    change(folder, lambda weights: weights.update({"lm_head.weight": weights["lm_head.weight"] * 100}))

    done = run("phi3v-model", "selfcheck", folder)

    assert done.returncode == 1
    assert "WRONG loss on a picture" in done.stdout
