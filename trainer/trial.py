"""What a forward and its backward hold in memory, by running them on tensors that have a shape and no content.

The model's own code runs, down to each operation of PyTorch, on fake tensors: what it keeps for the way back, what it
computes again, what autocast copies. Nothing is computed: it takes seconds, and no memory to speak of.

Not covered: the workspace of a kernel, and what the allocator loses to fragments.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from phi3v.schema.tokens import CROP
from phi3v.trainer.arguments import CHECKPOINTING
from phi3v.trainer.model import Phi3VForCausalLM
from phi3v.trainer.model.attention import PACKED_SDPA
from phi3v.trainer.model.pixels import normalise
from phi3v.trainer.model.vision import ImageEmbedding, merge_patches


class Forward(NamedTuple):
    """What goes into the model at once.

    Attributes:
        lengths: tokens of each sample.
        packed: they lie end to end in one row; else each in one of its own, padded to the longest.
        image_tokens: tokens that are an image's.
        pictures: what the vision tower sees, crops and whole views.
        labelled: tokens that are learned.
    """

    lengths: tuple[int, ...]
    packed: bool
    image_tokens: int
    pictures: int
    labelled: int

    @property
    def rows(self) -> tuple[int, int]:
        """How many rows there are, and the tokens of each."""
        return (1, sum(self.lengths)) if self.packed else (len(self.lengths), max(self.lengths))


class Held(NamedTuple):
    """The most bytes that are held at a time, beside weights and gradients: the sum of activations and logits.

    Attributes:
        logits: what the loss needs beside what waits for the way back, the head's gradient among it.
        activations: the rest.
        copies: what is more at the fullest moment, of weights copied to 16 bits, which autocast keeps for a forward.
    """

    activations: int
    logits: int
    copies: int


def try_out(model: Phi3VForCausalLM, forward: Forward, *, autocast: bool, checkpointing: bool) -> Held:
    """Run a forward and its backward without computing anything.

    Args:
        model: on the meta device, with the run's adapters and types; it is changed, and of no use afterwards.
        forward: what goes in.
        autocast: compute in 16 bits where the weights are float32.
        checkpointing: keep each layer's input alone, and compute the rest again.
    """
    counted = _Counted()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        _give_fake_weights(model)
        model.train()
        if checkpointing:
            getattr(model, f"{CHECKPOINTING}_enable")({"use_reentrant": False})
        counted.leave_out([*model.parameters(), *model.buffers()])
    with fake, counted:
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            hidden = _trunk(model, forward)
            if hidden.requires_grad:
                hidden.register_hook(lambda _: counted.enter("trunk"))  # type: ignore[no-untyped-call]
            kept = counted.now
            counted.enter("head")
            targets = torch.zeros(forward.labelled, dtype=torch.long)
            states = hidden.flatten(0, 1).index_select(0, targets)
            loss = hidden.sum() * 0.0 + model.summed_loss(states, targets)
        loss.backward()  # type: ignore[no-untyped-call]
    peak, logits = max(counted.peaks.values()), max(0, counted.peaks["head"] - kept)
    return Held(peak - logits, logits, counted.both - peak)


def _give_fake_weights(model: nn.Module) -> None:
    """Put fake weights in place of those on the meta device: autocast knows CPUs, and no meta."""
    for module in model.modules():
        for name, own in list(module.named_parameters(recurse=False)):
            fake = nn.Parameter(torch.empty(own.shape, dtype=own.dtype), requires_grad=own.requires_grad)
            if own.requires_grad:
                fake.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
            setattr(module, name, fake)
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _drop_gradient(weight: Tensor) -> None:
    weight.grad = None  # gradients are counted by themselves


def _trunk(model: Phi3VForCausalLM, forward: Forward) -> Tensor:
    """Return the decoder's output (B, T, hidden): what `Phi3VModel.forward` does, but nothing that reads a number."""
    decoder, (count, length) = model.model, forward.rows
    hidden = decoder.embed_tokens(torch.zeros(count, length, dtype=torch.long))
    if forward.pictures:
        places = torch.zeros(count, length, 1, dtype=torch.bool)
        hidden = hidden.masked_scatter(places, _features(decoder.vision_embed_tokens, forward).to(hidden.dtype))
    turn = torch.zeros(count, length, decoder.config.hidden_size // decoder.config.num_attention_heads).to(hidden.dtype)
    for layer in decoder.layers:
        hidden = layer(hidden, position_embeddings=(turn, turn), use_cache=False, **_attention(model, forward))
    output: Tensor = decoder.norm(hidden)
    return output


def _features(vision: ImageEmbedding, forward: Forward) -> Tensor:
    """Return the images' embeddings (image tokens, hidden), as `ImageEmbedding.forward` does."""
    pixels = normalise(torch.zeros(forward.pictures, 3, CROP, CROP, dtype=torch.uint8))
    maps = merge_patches(vision.img_processor(pixels.to(vision.glb_GN.dtype))).flatten(0, 2)
    ends = vision.glb_GN[0].expand(forward.image_tokens - len(maps), -1)
    embeddings: Tensor = vision.img_projection(torch.cat([maps, ends]))
    return embeddings


def _attention(model: Phi3VForCausalLM, forward: Forward) -> dict[str, Any]:
    """Return the mask, and the samples' lengths, as the attention is handed them."""
    kind, (count, length) = model.config._attn_implementation, forward.rows  # noqa: SLF001  # its only name
    if kind == PACKED_SDPA and forward.packed:
        return {"attention_mask": None, "segment_lengths": list(forward.lengths)}
    if kind == "eager":
        return {"attention_mask": torch.zeros(count, 1, length, length)}
    padded = len(set(forward.lengths)) > 1
    return {"attention_mask": torch.zeros(count, 1, length, length, dtype=torch.bool) if padded else None}


class _Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves these untyped
    """Counts the bytes of every storage from the operation that makes it until nothing refers to it.

    Attributes:
        now: bytes there are, copies of weights apart.
        peaks: the most of them, by phase.
        both: the most with the copies.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.both = 0
        self.peaks = {"trunk": 0, "head": 0}
        self._phase = "trunk"
        self._known: dict[int, weakref.ref[Any]] = {}
        self._weights: set[int] = set()
        self._copied = 0

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Don't count these; what they are copied to is counted apart."""
        self._weights.update(map(_key, tensors))

    def enter(self, phase: str) -> None:
        """Count towards another phase from here on."""
        self._phase = phase

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count what it makes."""
        made = func(*args, **(kwargs or {}))
        copy = func is torch.ops.aten._to_copy.default and _key(args[0]) in self._weights  # noqa: SLF001
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor, copy=copy)
        return made

    def _add(self, tensor: Tensor, *, copy: bool) -> None:
        key, storage = _key(tensor), tensor.untyped_storage()
        if key in self._known or key in self._weights:
            return
        size = storage.nbytes()
        self._known[key] = weakref.ref(storage, lambda _: self._forget(key, size, copy=copy))
        if copy:
            self._copied += size
        else:
            self.now += size
            self.peaks[self._phase] = max(self.peaks[self._phase], self.now)
        self.both = max(self.both, self.now + self._copied)

    def _forget(self, key: int, size: int, *, copy: bool) -> None:
        del self._known[key]
        if copy:
            self._copied -= size
        else:
            self.now -= size


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001  # the storage itself, whatever object stands for it
