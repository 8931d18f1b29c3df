from pathlib import Path
from typing import Any

import pytest
import torch

from phi3v.trainer.adapt import adapt
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.model import Phi3VForCausalLM
from phi3v.trainer.model.tiny import tiny_model, tiny_processor


@pytest.fixture
def model() -> Phi3VForCausalLM:
    return tiny_model(tiny_processor())


def trained(model: torch.nn.Module, **options: Any) -> set[str]:
    adapted = adapt(model, TrainConfig(data_dir=Path("data"), **options))
    return {name for name, weight in adapted.named_parameters() if weight.requires_grad}


def test_full_fine_tuning_trains_all_that_takes_part(model: Phi3VForCausalLM) -> None:
    left = {name for name, _ in model.named_parameters()} - trained(model)

    assert left
    assert all(".encoder.layers.2." in name or ".post_layernorm." in name for name in left)


def test_freezing_the_vision_part_leaves_the_text_embeddings_free(model: Phi3VForCausalLM) -> None:
    names = trained(model, freeze_vision_model=True)

    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" in names
    assert not [name for name in names if "vision_embed_tokens" in name]


@pytest.mark.parametrize("freeze", [False, True])
def test_lora_adapts_the_recipes_layers(model: Phi3VForCausalLM, freeze: bool) -> None:
    names = trained(model, use_lora=True, freeze_vision_model=freeze)

    assert all(".lora_" in name for name in names)
    adapted = {name.split(".lora_")[0].split(".")[-1] for name in names if "vision_embed_tokens" not in name}
    assert adapted == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"}
    vision = {name.split(".lora_")[0] for name in names if "vision_embed_tokens" in name}
    assert bool(vision) is not freeze
    assert not [name for name in vision if "layers.2." in name]
    if not freeze:
        assert {name.split(".")[-1] for name in vision} == {
            "q_proj",
            "k_proj",
            "v_proj",
            "out_proj",
            "fc1",
            "fc2",
            "0",
            "2",
        }
