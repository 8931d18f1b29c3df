"""A few optimizer steps in one process of several; test_distributed.py starts it.

Rank 0 has a sample with an image, rank 1 one without. Prints the loss of each step (the mean over all labelled
tokens, whatever the number of processes), and what proves that the strategy is on.

Usage: distributed_steps.py STRATEGY, with torchrun's variables; STRATEGY is single, ddp, fsdp2, zero2 or zero3.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from phi3v.trainer.adapt import adapt
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.model.tiny import tiny_model, tiny_processor

STEPS, RATE = 4, 1e-3
BETAS, EPSILON = (0.9, 0.95), 1e-7


def samples() -> list[dict[str, Tensor]]:
    """Return one sample with an image and one without, with 4 and 9 labelled tokens."""
    processor = tiny_processor()
    image = Image.new("RGB", (64, 48), "red")
    made = [dict(processor("<|user|>\n<|image_1|>\nWhat is this? Red.", image, num_crops=1))]
    made.append(dict(processor("<|user|>\nWho signed the letter? It was signed by the director.")))
    for sample, count in zip(made, (4, 9), strict=True):
        sample["labels"] = torch.full_like(sample["input_ids"], IGNORED)
        sample["labels"][0, -count:] = sample["input_ids"][0, -count:]
    return made


def model() -> nn.Module:
    """Return the tiny model with the weights that take no part in anything frozen."""
    return adapt(tiny_model(tiny_processor()), TrainConfig(data_dir=Path()))


def single() -> dict[str, Any]:
    """Train on both samples in this process."""
    trained = model().train()
    optimizer = torch.optim.AdamW([w for w in trained.parameters() if w.requires_grad], RATE, BETAS, EPSILON)
    batch, losses = samples(), []
    for _ in range(STEPS):
        loss = sum(trained(**sample, num_items_in_batch=4 + 9).loss for sample in batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {"losses": losses, "proof": "single"}


def wrapped(strategy: str) -> tuple[nn.Module, torch.optim.Optimizer | None, str]:
    """Return the model under a strategy, its optimizer unless the engine has its own, and a proof."""
    trained = model().train()
    if strategy == "ddp":
        under: nn.Module = nn.parallel.DistributedDataParallel(trained)
        return under, optimizer_of(under), type(under).__name__
    if strategy == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        layers = [*trained.model.layers, *trained.model.vision_embed_tokens.img_processor.vision_model.encoder.layers]
        for part in [*layers, trained]:
            fully_shard(part)
        return trained, optimizer_of(trained), type(trained.lm_head.weight).__name__
    import deepspeed

    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,  # DeepSpeed clips at 1.0 unless told otherwise
        "zero_optimization": {"stage": int(strategy[-1])},
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": RATE, "betas": BETAS, "eps": EPSILON, "weight_decay": 0.01, "torch_adam": True},
        },
    }
    parameters = [w for w in trained.parameters() if w.requires_grad]
    engine, *_ = deepspeed.initialize(model=trained, model_parameters=parameters, config=settings)
    return engine, None, f"{type(engine).__name__} {engine.zero_optimization_stage()}"


def optimizer_of(trained: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of the comparison."""
    return torch.optim.AdamW([w for w in trained.parameters() if w.requires_grad], RATE, BETAS, EPSILON)


def distributed(strategy: str) -> dict[str, Any]:
    """Train on this rank's sample."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo")
    under, optimizer, proof = wrapped(strategy)
    sample, losses = samples()[rank], []
    for _ in range(STEPS):
        own = under(**sample, num_items_in_batch=4 + 9).loss
        scaled = own * world  # gradients are averaged over the ranks
        if optimizer:
            scaled.backward()
            optimizer.step()
            optimizer.zero_grad()
        else:
            under.backward(scaled)  # type: ignore[operator]
            under.step()  # type: ignore[operator]
        total = own.detach().clone()
        torch.distributed.all_reduce(total)
        losses.append(total.item())
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return {"losses": losses, "proof": proof}


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = single() if sys.argv[1] == "single" else distributed(sys.argv[1])
    if os.environ.get("RANK", "0") == "0":
        print("RESULT " + json.dumps(result), flush=True)  # noqa: T201  # read by the test
    # Not by the interpreter's own end, at which threads that DeepSpeed leaves behind abort the process now and then.
    os._exit(0)
