"""The vision part: CLIP over crops, laid out as one map of the image, projected into the language model's space.

Source: Phi3ImageEmbedding in modeling_phi3_v.py of microsoft/Phi-3.5-vision-instruct (`hd_transform_order` "sub_glb").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from phi3v.schema.tokens import CROP
from phi3v.trainer.model.configuration import Phi3VConfig
from phi3v.trainer.model.pixels import normalise, whole_view


class ImageTower(nn.Module):
    """CLIP's vision model under the name that the released checkpoints give it."""

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__()
        vision_config = config.vision_config
        # transformers chooses an attention for the top-level model only; the tower follows it.
        vision_config._attn_implementation = config._attn_implementation  # noqa: SLF001  # its only name
        self.vision_model = CLIPVisionModel(vision_config)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return patch features (N, patches, C) of normalised pictures (N, 3, 336, 336).

        The last layer is not run: the features are `hidden_states[-2]`, without the class token.
        """
        tower = self.vision_model
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for layer in tower.encoder.layers[:-1]:
            hidden = layer(hidden, None)
        patches: Tensor = hidden[:, 1:]
        return patches


class ImageEmbedding(nn.Module):
    """From the crops of a batch's images to the embeddings that replace their placeholders."""

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__()
        width = config.vision_config.hidden_size
        self.img_processor = ImageTower(config)
        self.glb_GN = nn.Parameter(torch.zeros(1, 1, 4 * width))  # between the crops' map and the whole view's
        self.sub_GN = nn.Parameter(torch.zeros(1, 1, 1, 4 * width))  # the end of a row
        self.img_projection = nn.Sequential(
            nn.Linear(4 * width, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)
        )

    def forward(self, pixel_values: Tensor, crop_counts: Tensor, image_sizes: Tensor) -> Tensor:
        """Return the embeddings (tokens of all K images, hidden), image after image.

        Args:
            pixel_values: (sum of crops, 3, 336, 336) uint8, each image's crops row by row, images end to end.
            crop_counts: (K,) crops of each image.
            image_sizes: (K, 2) height and width in pixels after resizing, multiples of 336.
        """
        counts = crop_counts.tolist()
        grids = [(height // CROP, width // CROP) for height, width in image_sizes.tolist()]
        if [rows * columns for rows, columns in grids] != counts:
            raise ValueError(f"crop_counts {counts} do not fit image_sizes {image_sizes.tolist()}")
        images = torch.split(pixel_values, counts)
        firsts = first_equal(images, grids)
        different = sorted(set(firsts))
        sequences = self._encode([images[number] for number in different], [grids[number] for number in different])
        embeddings = self.img_projection(torch.cat(sequences)).split([len(own) for own in sequences])
        place = {number: index for index, number in enumerate(different)}
        return torch.cat([embeddings[place[number]] for number in firsts])

    def nothing(self, device: torch.device) -> Tensor:
        """Return zero, for which every weight was used: for a text-only batch where other processes see images."""
        # The device is passed in: ZeRO-3 would gather a weight that is only looked at, on this process alone.
        blank = torch.zeros(1, 3, CROP, CROP, dtype=torch.uint8, device=device)
        embeddings: Tensor = self(blank, torch.tensor([1]), torch.tensor([[CROP, CROP]]))
        return embeddings.sum() * 0.0

    def _encode(self, images: list[Tensor], grids: list[tuple[int, int]]) -> list[Tensor]:
        """Return each image as a sequence (tokens, 4 C): its crops' map, the separator, its whole view's map."""
        counts = [len(own) for own in images]
        pixels = normalise(torch.cat(images))
        # An image of one crop is its own whole view: nothing to encode a second time.
        pairs = zip(torch.split(pixels, counts), grids, strict=True)
        wholes = [whole_view(own, *grid) for own, grid in pairs if len(own) > 1]
        pixels = torch.cat([pixels, torch.stack(wholes)]) if wholes else pixels
        features = merge_patches(self.img_processor(pixels.to(self.glb_GN.dtype)))
        maps = iter(features[sum(counts) :])
        sequences = []
        for own, grid in zip(torch.split(features[: sum(counts)], counts), grids, strict=True):
            whole = next(maps) if len(own) > 1 else own[0]
            parts = [self._with_row_ends(tile(own, *grid)), self.glb_GN[0], self._with_row_ends(whole)]
            sequences.append(torch.cat(parts))
        return sequences

    def _with_row_ends(self, image_map: Tensor) -> Tensor:
        """Return a map (H, W, C) as a sequence (H * (W + 1), C), each row followed by the row end."""
        ends = self.sub_GN[0].expand(len(image_map), 1, -1)
        return torch.cat([image_map, ends], dim=1).flatten(0, 1)


def first_equal(images: Sequence[Tensor], grids: Sequence[tuple[int, int]]) -> list[int]:
    """Return for each image the number of the first one with the same crops: its own, if there is none before."""
    # Eight bytes at a time; a sum that runs over is as good.
    sums = torch.stack([own.flatten().view(torch.int64).sum() for own in images]).tolist()
    seen: dict[tuple[tuple[int, int], int], list[int]] = {}
    firsts = []
    for number, key in enumerate(zip(grids, sums, strict=True)):
        # Equal sums make it likely, equal crops make it sure.
        earlier = seen.setdefault(key, [])
        first = next((other for other in earlier if torch.equal(images[other], images[number])), number)
        if first == number:
            earlier.append(number)
        firsts.append(first)
    return firsts


def merge_patches(features: Tensor) -> Tensor:
    """Return (N, 24 * 24, C) patches as (N, 12, 12, 4 C): 2 x 2 neighbours in the order row, column, channel."""
    count, patches, width = features.shape
    side = round(patches**0.5)
    pairs = features.view(count, side // 2, 2, side // 2, 2, width)
    return pairs.transpose(2, 3).reshape(count, side // 2, side // 2, 4 * width)


def tile(crops: Tensor, rows: int, columns: int) -> Tensor:
    """Return the maps of crops (rows * columns, H, W, C), row by row, as one map (rows * H, columns * W, C)."""
    _, height, width, channels = crops.shape
    grid = crops.view(rows, columns, height, width, channels).transpose(1, 2)
    return grid.reshape(rows * height, columns * width, channels)
