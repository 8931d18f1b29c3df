from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from phi3v.schema import UserError
from phi3v.trainer.model.pixels import CLIP_MEAN, CLIP_STD
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


# What a checkpoint with remote code brings along, under the original's names and with its arguments. The layers are
# this package's, since the original code is not here: what is tested is that the code is found, fed and compared.
REMOTE = """
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from phi3v.trainer.model import Phi3VConfig as Own, Phi3VForCausalLM as Layers


class Phi3VConfig(PreTrainedConfig):
    model_type = "phi3_v"


class Phi3VForCausalLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        assert config._attn_implementation == "eager"
        whole = Layers(Own.from_pretrained(FOLDER))
        self.model, self.lm_head, self.whole = whole.model, whole.lm_head, [whole]
        self.model.vision_embed_tokens.wte = self.model.embed_tokens

    def forward(self, input_ids, attention_mask, pixel_values, image_sizes, use_cache):
        assert not use_cache
        count = image_sizes.prod().item() // 336**2
        assert pixel_values.shape == (1, 5, 3, 336, 336) and not pixel_values[0, 1 + count :].any()
        crops = pixel_values[0, 1 : 1 + count]
        mean, std = crops.new_tensor([MEAN]).view(3, 1, 1), crops.new_tensor([STD]).view(3, 1, 1)
        pixels = ((crops * std + mean) * 255).round().byte()
        return self.whole[0](
            input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixels,
            crop_counts=image_sizes.new_tensor([count]), image_sizes=image_sizes, use_cache=False,
        )
"""


def bring_code(folder: Path, code: str) -> None:
    import json

    for name, value in {"FOLDER": str(folder), "[MEAN]": list(CLIP_MEAN), "[STD]": list(CLIP_STD)}.items():
        code = code.replace(name, repr(value))
    (folder / "original.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "original.Phi3VConfig", "AutoModelForCausalLM": "original.Phi3VForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(autouse=True)
def _modules_of_remote_code_are_fetched_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)


def test_remote_code_with_the_same_logits_passes(folder: Path) -> None:
    bring_code(folder, REMOTE)

    *_, last = selfcheck(str(folder), against_remote=True)

    assert last.what == "logits against the original code"
    assert last.good
    assert float(last.detail.split()[-1]) < 2e-5


def test_remote_code_with_other_logits_is_told(folder: Path) -> None:
    bring_code(folder, REMOTE.replace("pixels = (", "pixels = 1 - ("))

    *_, last = selfcheck(str(folder), against_remote=True)

    assert not last.good
    assert float(last.detail.split()[-1]) > 0.02


def test_remote_code_that_does_not_run_here_is_an_error_with_a_way_out(folder: Path) -> None:
    bring_code(folder, "import a_library_of_long_ago")

    with pytest.raises(UserError, match="original code does not load .*a_library_of_long_ago") as caught:
        list(selfcheck(str(folder), against_remote=True))
    assert "--against_remote" in str(caught.value)


def test_without_original_code_there_is_nothing_to_compare_with(folder: Path) -> None:
    with pytest.raises(UserError, match="names no original code"):
        list(selfcheck(str(folder), against_remote=True))


def test_the_command_exits_with_1_if_something_is_wrong(run: Callable[..., Any], folder: Path) -> None:
    assert run("phi3v-model", "selfcheck", folder).returncode == 0
    change(folder, lambda weights: weights.update({"lm_head.weight": weights["lm_head.weight"] * 100}))

    done = run("phi3v-model", "selfcheck", folder)

    assert done.returncode == 1
    assert "WRONG loss on a picture" in done.stdout
