"""Phi-3-vision and Phi-3.5-vision on the Phi-3 of transformers.

State-dict names are those of the released checkpoints. Placeholders are negative ids: image N stands as -N, as
often as it has tokens.

Source: modeling_phi3_v.py of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.phi3.modeling_phi3 import Phi3ForCausalLM, Phi3Model, Phi3PreTrainedModel

from phi3v.trainer.model.configuration import Phi3VConfig
from phi3v.trainer.model.vision import ImageEmbedding

END_OF_TEXT, END_OF_TURN = 32000, 32007
RELEASED_END = 2  # </s>, which the released generation_config.json names and the model never writes
IGNORED = -100  # a label that is not learned


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
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: Tensor | None = None,
        crop_counts: Tensor | None = None,
        image_sizes: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the decoder; see `ImageEmbedding.forward` for the images."""
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds = self._embed(input_ids, pixel_values, crop_counts, image_sizes)
        return super().forward(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )

    def _embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None,
        crop_counts: Tensor | None,
        image_sizes: Tensor | None,
    ) -> Tensor:
        embeddings: Tensor = self.embed_tokens(input_ids.clamp(min=0))
        places = input_ids < 0
        if pixel_values is None:
            if places.any():
                raise ValueError("input_ids hold image placeholders, but pixel_values is missing")
            return embeddings
        features = self.vision_embed_tokens(pixel_values, crop_counts, image_sizes)
        if len(features) != places.sum():
            raise ValueError(f"{int(places.sum())} image placeholders in input_ids, but {len(features)} image tokens")
        return embeddings.masked_scatter(places.unsqueeze(-1), features.to(embeddings.dtype))


class Phi3VForCausalLM(Phi3VPreTrainedModel, Phi3ForCausalLM):
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
        """Load a model as transformers does; its generation stops where the model's turns end."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.generation_config.eos_token_id == RELEASED_END:  # generation would run on to its limit
            model.generation_config.eos_token_id = [END_OF_TEXT, END_OF_TURN]
        return loaded

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
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
            labels: (B, T), -100 where nothing is learned; position t is predicted from t - 1.
            logits_to_keep: 0 for logits at every position, n for the last n.
            pixel_values, crop_counts, image_sizes: as `ImageEmbedding.forward` takes them.
            num_items_in_batch: labelled tokens of the whole global batch; the loss is the sum over labelled
                tokens divided by it. None: divided by the labelled tokens here.
            attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: as in `Phi3ForCausalLM`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
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
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _loss(self, hidden: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
        """Return the cross entropy; logits are computed only where there is a label."""
        targets = labels[:, 1:].to(hidden.device)
        labelled = targets != IGNORED
        logits = self.lm_head(hidden[:, :-1][labelled]).float()
        if len(logits) == 0:
            return (
                hidden.sum() * 0.0
            )  # keeps the graph, so that a batch without labels trains nothing but breaks nothing
        total = cross_entropy(logits, targets[labelled], reduction="sum")
        return total / (num_items if num_items is not None else len(logits))

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Prepare one step; the images go in with the prompt, and again where the cache is computed anew."""
        limit = self.config.original_max_position_embeddings
        # Phi3ForCausalLM drops the cache where the long RoPE factors take over, so that step is a first one again.
        anew = past_key_values is not None and past_key_values.get_seq_length() <= limit < input_ids.shape[1]
        images_needed = bool(is_first_iteration or anew)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, past_key_values=past_key_values, is_first_iteration=images_needed, **kwargs
        )
        if not images_needed and kwargs.get("use_cache", True):
            for name in ("pixel_values", "crop_counts", "image_sizes"):
                inputs.pop(name, None)
        return inputs
