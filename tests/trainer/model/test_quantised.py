"""4-bit NF4 weights under adapters, on a CPU: what QLoRA needs of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from phi3v.trainer.model import Phi3VForCausalLM, Phi3VProcessor
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.model.tiny import tiny_model, tiny_processor

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: NF4 is not shown")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def processor() -> Phi3VProcessor:
    return tiny_processor()


@pytest.fixture
def quantised(processor: Phi3VProcessor, tmp_path: Path) -> Phi3VForCausalLM:
    from transformers import BitsAndBytesConfig

    tiny_model(processor).save_pretrained(tmp_path)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["model.vision_embed_tokens", "lm_head"],  # the full path, or the tower is quantised, too
    )
    loaded: Phi3VForCausalLM = Phi3VForCausalLM.from_pretrained(tmp_path, quantization_config=settings)
    return loaded


def test_the_language_model_is_quantised_and_the_vision_part_is_not(quantised: Phi3VForCausalLM) -> None:
    kinds = {name: type(module).__name__ for name, module in quantised.named_modules() if hasattr(module, "weight")}

    four_bit = {name for name, kind in kinds.items() if kind == "Linear4bit"}
    assert {name.rsplit(".", 1)[-1] for name in four_bit} == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert not [name for name in four_bit if "vision" in name]


def test_adapters_on_four_bit_weights_learn(quantised: Phi3VForCausalLM, processor: Phi3VProcessor) -> None:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    prepared = prepare_model_for_kbit_training(quantised, gradient_checkpointing_kwargs={"use_reentrant": False})
    model = get_peft_model(prepared, LoraConfig(r=4, target_modules=["qkv_proj", "o_proj", "img_projection.0"])).train()
    batch = dict(
        processor("<|user|>\n<|image_1|>\nWhat?<|end|>\n<|assistant|>\nred", Image.new("RGB", (40, 40)), num_crops=1)
    )
    batch["labels"] = torch.full_like(batch["input_ids"], IGNORED)
    batch["labels"][0, -3:] = batch["input_ids"][0, -3:]
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)

    losses = []
    for _ in range(6):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    assert losses[-1] < 0.7 * losses[0]
    assert all("lora" in name for name, weight in model.named_parameters() if weight.requires_grad)


def test_quantised_logits_are_near_the_exact_ones(quantised: Phi3VForCausalLM, processor: Phi3VProcessor) -> None:
    batch = dict(processor("<|user|>\n<|image_1|>\nWhat?", Image.new("RGB", (40, 40), "blue"), num_crops=1))

    with torch.no_grad():
        near, exact = quantised(**batch).logits[0, -1], tiny_model(processor)(**batch).logits[0, -1]

    assert torch.nn.functional.cosine_similarity(near, exact, dim=0) > 0.95
    assert not torch.equal(near, exact)
