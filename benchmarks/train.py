"""A training step: packed against padded rows, and the memory of the loss against logits at every position.

Two things run side by side in one process, in turns, and are checked for equal results first; memory is measured in
a process of its own, as the highest resident size above what was there before the step.

Run: .venv/bin/python benchmarks/train.py     (the last line is JSON)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from phi3v.trainer.model import Phi3VConfig, Phi3VForCausalLM
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.model.tiny import tiny_config, tiny_processor

LENGTHS = (60, 120, 313, 400, 757, 900, 1921, 2509)  # text, frames, pages: a mixed set's token counts
SHORT = (60, 120, 313, 400) * 2  # text and single pictures
LABELLED = 8  # tokens of each sample
ROUNDS = 5
VOCABULARY, TOKENS = 32064, 6231


def build(layers: int, vocabulary: int, attention: str) -> Phi3VForCausalLM:
    """Return a model of hidden size 384 with random weights, the same for the same arguments."""
    content = tiny_config(tiny_processor()).to_dict()
    content |= {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": layers, "vocab_size": vocabulary}
    content |= {"num_attention_heads": 8, "num_key_value_heads": 8}
    torch.manual_seed(0)
    return Phi3VForCausalLM._from_config(Phi3VConfig.from_dict(content), attn_implementation=attention).train()


def demo(attention: str) -> Phi3VForCausalLM:
    """Return the demo's model, in which what surrounds the arithmetic weighs as on a GPU."""
    torch.manual_seed(0)
    config = tiny_config(tiny_processor())
    return Phi3VForCausalLM._from_config(config, attn_implementation=attention).train()


def samples(lengths: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Return ids and labels of each sample."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for length in lengths:
        ids = torch.randint(3, 700, (length,), generator=generator)
        labels = torch.full_like(ids, IGNORED)
        labels[-LABELLED:] = ids[-LABELLED:]
        made.append((ids, labels))
    return made


def padded(lengths: Sequence[int]) -> dict[str, Tensor]:
    """Return the samples as rows of one batch."""
    ids, labels = zip(*samples(lengths), strict=True)
    mask = [torch.ones_like(own) for own in ids]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(ids, batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
        "attention_mask": pad(mask, batch_first=True),
    }


def packed(lengths: Sequence[int]) -> dict[str, Tensor]:
    """Return the samples end to end in one row."""
    ids, labels = zip(*samples(lengths), strict=True)
    positions = torch.cat([torch.arange(len(own)) for own in ids])
    return {"input_ids": torch.cat(ids)[None], "labels": torch.cat(labels)[None], "position_ids": positions[None]}


def one_by_one(lengths: Sequence[int]) -> list[dict[str, Tensor]]:
    """Return each sample as a batch of its own."""
    return [{"input_ids": ids[None], "labels": labels[None]} for ids, labels in samples(lengths)]


def step(model: Phi3VForCausalLM, batches: list[dict[str, Tensor]]) -> tuple[float, float, Tensor]:
    """Return loss, seconds and the gradient of one optimizer step's forwards and backwards."""
    model.zero_grad()
    start = time.perf_counter()
    total = 0.0
    for batch in batches:
        loss = model(**batch, num_items_in_batch=LABELLED * 8, use_cache=False).loss
        loss.backward()
        total += loss.item()
    seconds = time.perf_counter() - start
    return total, seconds, torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])


def packing(make: Callable[[str], Phi3VForCausalLM], lengths: Sequence[int]) -> dict[str, float]:
    """Return how much faster packed rows train than padded ones and than one sample at a time."""
    models = {"packed": make("packed_sdpa"), "padded": make("sdpa"), "one by one": make("sdpa")}
    batches = {"packed": [packed(lengths)], "padded": [padded(lengths)], "one by one": one_by_one(lengths)}
    first = {name: step(models[name], batches[name]) for name in models}
    for name in ("padded", "one by one"):
        assert abs(first["packed"][0] - first[name][0]) < 1e-5, "the paths must compute the same loss"
        cosine = torch.nn.functional.cosine_similarity(first["packed"][2].double(), first[name][2].double(), dim=0)
        assert cosine >= 0.999999, "the paths must compute the same gradient"
    times = {name: [] for name in models}  # type: dict[str, list[float]]
    for _ in range(ROUNDS):
        for name, model in models.items():
            times[name].append(step(model, batches[name])[1])

    def ratio(name: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[name], times["packed"], strict=True)), 2)

    speed = round(sum(lengths) / statistics.median(times["packed"]))
    return {"packed_over_padded": ratio("padded"), "packed_over_one_by_one": ratio("one by one"), "tokens_per_s": speed}


def loss_memory(path: str, share: float) -> int:
    """Return the peak resident bytes that a loss and its gradient add, run in this process."""
    model = build(1, VOCABULARY, "sdpa")
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(1, TOKENS, 384, generator=generator, requires_grad=True)
    labels = torch.randint(0, VOCABULARY, (1, TOKENS), generator=generator)
    labels[0, : int(TOKENS * (1 - share))] = IGNORED
    model.lm_head.weight.grad = torch.zeros_like(model.lm_head.weight)
    hidden.grad = torch.zeros_like(hidden)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    if path == "ours":
        loss = model._loss(hidden, labels, None)
    else:
        loss = cross_entropy(model.lm_head(hidden).float()[0, :-1], labels[0, 1:], ignore_index=IGNORED)
    loss.backward()
    print(f"{loss.item():.4f}")
    return _status("VmHWM") - before


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def memory() -> dict[str, float]:
    """Return the share of the plain path's memory that ours takes, by share of labelled positions."""
    found = {}
    for share in (1.0, 0.05):
        peaks, losses = [], []
        for path in ("ours", "plain"):
            command = [sys.executable, __file__, path, str(share)]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            losses.append(float(out[0]))
            peaks.append(int(out[1]))
        assert abs(losses[0] - losses[1]) < 1e-3, "both must compute the same loss"
        found[f"loss_memory_at_{share:.0%}"] = round(peaks[0] / peaks[1], 3)
        print(f"loss at {share:.0%} labels: {peaks[0] >> 20} MiB against {peaks[1] >> 20} MiB")
    return found


def main() -> None:
    """Measure one thing in this process if asked to, else all."""
    if len(sys.argv) > 1:
        print(loss_memory(sys.argv[1], float(sys.argv[2])))
        return
    results: dict[str, Any] = {"mixed": packing(partial(build, 4, 832), LENGTHS), "short": packing(demo, SHORT)}
    results |= memory()
    print(json.dumps({"train": results}))


if __name__ == "__main__":
    main()
