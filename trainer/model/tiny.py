"""A model small enough to train in seconds on a CPU, for demos and tests: random weights, a tokenizer of our own.

Everything else is as in the released models: the layers, the special tokens, the crops, the two sets of RoPE
factors that change over at 4,096 tokens.
"""

from __future__ import annotations

from importlib.resources import as_file, files

import torch
from transformers import PreTrainedTokenizerFast

from phi3v.trainer.model.configuration import Phi3VConfig
from phi3v.trainer.model.image_processor import Phi3VImageProcessor
from phi3v.trainer.model.modeling import Phi3VForCausalLM
from phi3v.trainer.model.processor import Phi3VProcessor

TINY = "tiny"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def tiny_processor() -> Phi3VProcessor:
    """Return a processor with the small tokenizer."""
    with as_file(files("phi3v.trainer.model") / "tiny_tokenizer.json") as path:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(path),
            bos_token="<s>",
            eos_token="<|endoftext|>",
            pad_token="<|endoftext|>",
            unk_token="<unk>",
            padding_side="right",
            model_max_length=131072,
            clean_up_tokenization_spaces=False,
        )
    tokenizer.chat_template = CHAT_TEMPLATE
    return Phi3VProcessor(Phi3VImageProcessor(), tokenizer)


def tiny_config(processor: Phi3VProcessor) -> Phi3VConfig:
    """Return the configuration of the tiny model for this processor's tokenizer."""
    tokenizer = processor.tokenizer
    width, head = 96, 48
    return Phi3VConfig(
        vocab_size=64 * -(-len(tokenizer) // 64),
        hidden_size=width,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=width // head,
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        rope_scaling={
            "type": "su",
            "short_factor": [1.0 + number / head for number in range(head // 2)],
            "long_factor": [2.0 ** (number / 4) for number in range(head // 2)],
        },
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        sliding_window=262144,
        img_processor={
            "image_dim_out": 32,
            "name": "clip_vision_model",
            "num_img_tokens": 144,
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": 336,
                "patch_size": 14,
                "hidden_act": "quick_gelu",
            },
        },
        embd_layer={
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
    )


def tiny_model(processor: Phi3VProcessor, *, seed: int = 0) -> Phi3VForCausalLM:
    """Return the tiny model with random weights, the same for the same seed."""
    model = Phi3VForCausalLM(tiny_config(processor))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # With the usual 0.02 so small a model stays at chance: what goes into a layer must come out as large.
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim > 1 or name.endswith("class_embedding"):  # all but norms and biases, which start fixed
                fan_in = weight[0].numel() if weight.ndim > 1 else len(weight)
                weight.normal_(std=fan_in**-0.5, generator=generator)
    model.generation_config.eos_token_id = processor.end_ids
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model
