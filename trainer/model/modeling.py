"""Phi-3-vision and Phi-3.5-vision on the Phi-3 of transformers.

State-dict names are those of the released checkpoints. Placeholders are negative ids: image N stands as -N, as
often as it has tokens.

Source: modeling_phi3_v.py of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.phi3.modeling_phi3 import Phi3ForCausalLM, Phi3Model, Phi3PreTrainedModel
from transformers.utils.generic import can_return_tuple

from phi3v.trainer.model.attention import PACKED_SDPA, packed_lengths
from phi3v.trainer.model.cache import CACHE
from phi3v.trainer.model.configuration import Phi3VConfig
from phi3v.trainer.model.distributed import exchanging, is_divided, most_of_all
from phi3v.trainer.model.generation import ImageGeneration
from phi3v.trainer.model.rope import LongRotaryEmbedding
from phi3v.trainer.model.vision import ImageEmbedding

END_OF_TEXT, END_OF_TURN = 32000, 32007
RELEASED_END = 2  # </s>, which the released generation_config.json names and the model never writes
IGNORED = -100  # a label that is not learned
LOADING_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys")
LOSS_CHUNK = 512  # labelled positions whose logits are held at a time


class Phi3VPreTrainedModel(Phi3PreTrainedModel):
    """What both models share: the configuration's class, and how weights are drawn and loaded."""

    config: Phi3VConfig
    config_class = Phi3VConfig
    # An alias of embed_tokens in the original code.
    _keys_to_ignore_on_load_unexpected = (r"vision_embed_tokens\.wte\.weight$",)
    _no_split_modules = ("Phi3DecoderLayer", "CLIPEncoderLayer")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ImageEmbedding):
            nn.init.zeros_(module.glb_GN)
            nn.init.zeros_(module.sub_GN)


class Phi3VModel(Phi3VPreTrainedModel, Phi3Model):
    """The decoder, with images in place of their placeholders."""

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config)
        self.vision_embed_tokens = ImageEmbedding(config)
        if config.rope_parameters["rope_type"] == "longrope":
            self.rotary_emb = LongRotaryEmbedding(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: Tensor | None = None,
        crop_counts: Tensor | None = None,
        image_sizes: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the decoder; see `ImageEmbedding.forward` for the images.

        A row may hold several samples end to end (B = 1, no attention_mask): position_ids start anew with each, and
        none attends to another.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds = self._embed(input_ids, pixel_values, crop_counts, image_sizes)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:  # noqa: PLR2004  # of padding
            # By the mask, so that padding on either side moves no token and lengthens no sample.
            position_ids = (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        elif lengths := packed_lengths(position_ids, attention_mask):
            # With a cache transformers would not see the pack, and let samples attend to each other in silence.
            use_cache = False
            kwargs |= self._pack(lengths, inputs_embeds.device)
        return super().forward(
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE: past_key_values if cache is None else cache},
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )

    def _pack(self, lengths: list[int], device: torch.device) -> dict[str, Any]:
        """Return what the attention must know of a packed row; eager and sdpa see it in position_ids."""
        if self.config._attn_implementation == PACKED_SDPA:
            return {"segment_lengths": lengths}
        if self.config._attn_implementation == "flash_attention_2":
            bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
            longest = max(lengths)
            return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
        return {}

    def _embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None,
        crop_counts: Tensor | None,
        image_sizes: Tensor | None,
    ) -> Tensor:
        if input_ids.numel() and (largest := int(input_ids.max())) >= self.config.vocab_size:
            what = f"input_ids hold the id {largest}, but the vocabulary ends at {self.config.vocab_size - 1}"
            raise ValueError(f"{what}: the tokenizer is another model's")
        embeddings: Tensor = self.embed_tokens(input_ids.clamp(min=0))
        places = input_ids < 0
        if pixel_values is None or crop_counts is None or image_sizes is None:
            if places.any():
                raise ValueError("input_ids hold image placeholders, but pixel_values is missing")
            # One token at a time is generation's, in which no process sees images.
            others_see_images = input_ids.shape[1] > 1 and exchanging()
            return embeddings + self.vision_embed_tokens.nothing(embeddings.device) if others_see_images else embeddings
        features = self.vision_embed_tokens(pixel_values, crop_counts, image_sizes)
        if len(features) != places.sum():
            raise ValueError(f"{int(places.sum())} image placeholders in input_ids, but {len(features)} image tokens")
        return embeddings.masked_scatter(places.unsqueeze(-1), features.to(embeddings.dtype))


class Phi3VForCausalLM(ImageGeneration, Phi3VPreTrainedModel, Phi3ForCausalLM):
    """The language model head over `Phi3VModel`."""

    def __init__(self, config: Phi3VConfig) -> None:
        # Not Phi3ForCausalLM's, which would build a whole Phi3Model first.
        super(Phi3ForCausalLM, self).__init__(config)
        self.model = Phi3VModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model as transformers does; its generation stops where the model's turns end.

        Raises:
            ValueError: the weights are not this model's; transformers would draw the missing ones at random.
        """
        with_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        wrong = {kind: sorted(map(str, info[kind])) for kind in LOADING_FAULTS if info.get(kind)}
        if wrong:
            told = "; ".join(f"{len(names)} {kind.replace('_', ' ')}: {names[0]} ..." for kind, names in wrong.items())
            raise ValueError(f"the checkpoint does not fit its configuration: {told}")
        if model.generation_config.eos_token_id == RELEASED_END:  # generation would run on to its limit
            model.generation_config.eos_token_id = [END_OF_TEXT, END_OF_TURN]
        return (model, info) if with_info else model

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor | None = None,
        pixel_values: Tensor | None = None,
        crop_counts: Tensor | None = None,
        image_sizes: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return the loss if there are labels, and logits if there are none or `logits_to_keep` asks for them.

        Args:
            input_ids: (B, T); -N stands for a token of image N.
            labels: (B, T), -100 where nothing is learned; position t is predicted from t - 1. In a packed row each
                sample's first label must be -100.
            logits_to_keep: 0 for logits at every position, n for the last n.
            pixel_values, crop_counts, image_sizes: as `ImageEmbedding.forward` takes them.
            num_items_in_batch: labelled tokens of the whole global batch; the loss is the sum over labelled
                tokens divided by it. None: divided by the labelled tokens here.
            attention_mask, position_ids, inputs_embeds, use_cache: as in `Phi3ForCausalLM`.
            past_key_values, cache: the cache under its name before transformers 5.24, and since.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE: past_key_values if cache is None else cache},
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            crop_counts=crop_counts,
            image_sizes=image_sizes,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        logits = None
        if labels is None or logits_to_keep is not None:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden if logits_to_keep is None else hidden[:, kept])
        return CausalLMOutputWithPast(
            loss=None if labels is None else self._loss(hidden, labels, num_items_in_batch),
            logits=logits,
            **{CACHE: outputs.get(CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _loss(self, hidden: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
        """Return the cross entropy; logits are computed only where there is a label, and a chunk at a time."""
        targets = labels[:, 1:].to(hidden.device)
        labelled = targets != IGNORED
        states, targets = hidden[:, :-1][labelled], targets[labelled]
        # A batch without labels trains nothing, but has its graph.
        total = hidden.sum() * 0.0 + self.summed_loss(states, targets)
        return total / (num_items if num_items is not None else max(1, len(targets)))

    def summed_loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross entropy of labelled positions, (N, hidden) and (N,), whose logits never all exist."""
        total = states.new_zeros((), dtype=torch.float32)
        chunks = list(zip(torch.split(states, LOSS_CHUNK), torch.split(targets, LOSS_CHUNK), strict=True))
        if is_divided(self):
            missing = most_of_all(len(chunks), states.device) - len(chunks)
            chunks += [(states[:0], targets[:0])] * missing
        for own, target in chunks:
            if torch.is_grad_enabled():
                # The logits are the largest tensor of a step: thrown away, and computed again on the way back.
                total = total + checkpoint(self._chunk_loss, own, target, use_reentrant=False)
            else:
                total = total + self._chunk_loss(own, target)
        return total

    def _chunk_loss(self, states: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self.lm_head(states).float(), targets, reduction="sum")
