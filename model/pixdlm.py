"""PixDLM: a question about a drone photograph in, the pixels that answer it out.

Shape legend: I pictures, Q questions, L prompt tokens, N image tokens, M masks, K masks of one
question, D Llama's width, m the side of the mask logits.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.utils import ModelOutput, is_flash_attn_2_available
from typing_extensions import Self

from model.checkpoints.backbones import Backbones
from model.checkpoints.layouts import CONFIG_FILE
from model.checkpoints.load import load_pretrained, load_tokenizer, load_with_options
from model.config import PixDLMConfig
from model.fusion import Fusion
from model.inputs.batch import Batch
from model.inputs.images import Geometry, frame_logits
from model.inputs.token_positions import TokenPositions
from model.language.conditioning import (
    answer_losses,
    condition_on_text,
    insert_image,
    last_hidden_states,
    question_features,
)
from model.language.decoding import Decoding, TokenStream
from model.language.tokens import EOS_ID, PAD_ID, SCALES, TOKENS_PER_SCALE, PixTokenizer
from model.lora import add_lora
from model.losses import LossWeights, grounding_loss, mask_losses, mean_overlap_loss
from model.mask_decoder import MaskDecoder, SegProjection
from model.pixel_path import PixelPath
from model.semantic_path import SemanticPath, resize_tokens
from utils.runtime.errors import UserError
from utils.runtime.files import set_modes

FLASH_CAPABILITY = (8, 0)  # of a GPU, the least that flash-attn 2 runs on


@dataclass
class PixDLMOutput(ModelOutput):
    """Output of a forward pass; losses are weighted, and None where no weights were passed.

    mask_logits holds per question float[K, m, m], in the network's geometry; `model.inputs.images.frame_logits`
    maps them to the frame.
    """

    loss: Tensor | None = None
    ce_loss: Tensor | None = None
    mask_bce_loss: Tensor | None = None
    mask_dice_loss: Tensor | None = None
    overlap_loss: Tensor | None = None
    text_loss: Tensor | None = None
    grounding_loss: Tensor | None = None
    mask_logits: list[Tensor] | None = None


@dataclass
class ImageFeatures:
    """Features of both visual paths, computed once a picture and shared by all questions about it.

    Args:
        pyramid: SAM2's levels, coarsest first: float[I, S, P/16, P/16], … /8, … /4.
        tokens: float[I, N, D], the fused image tokens in the language model's width.
        geometries: of the pictures.
        images: the pictures as they were given, where that is known.
    """

    pyramid: list[Tensor]
    tokens: Tensor
    geometries: list[Geometry]
    images: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @staticmethod
    def joined(parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """The features of all pictures of several, in their order."""
        if len(parts) == 1:
            return parts[0]
        pyramid = [torch.cat(levels) for levels in zip(*(one.pyramid for one in parts), strict=True)]
        geometries = [geometry for one in parts for geometry in one.geometries]
        return ImageFeatures(pyramid, torch.cat([one.tokens for one in parts]), geometries)


class PixDLMForCausalLM(PreTrainedModel):
    """The whole model. Everything about its shape is in its `PixDLMConfig`."""

    config_class = PixDLMConfig
    base_model_prefix = "pixdlm"
    main_input_name = "clip_pixels"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    load_in: str | None = None  # what its language model was quantised in

    def __init__(self, config: PixDLMConfig, empty_backbones: bool = False) -> None:
        """Build the model with random weights.

        Args:
            config: of the model.
            empty_backbones: SAM2, CLIP and Llama on the meta device, to be filled from files: at 7B they would be
                drawn as 27 GB of float32 first.
        """
        super().__init__(config)
        width = config.text_config.hidden_size
        backbones = partial(init_empty_weights, include_buffers=False) if empty_backbones else nullcontext
        with backbones():
            self.pixel_path = PixelPath(config)
            self.semantic_path = SemanticPath(config)
        self.fusion = Fusion(config, self.pixel_path.channels)
        self.projector = nn.Linear(config.vision_config.hidden_size, width)
        with backbones():
            self.language_model = LlamaForCausalLM(config.text_config)
        self.seg_projection = SegProjection(config)
        self.mask_decoder = MaskDecoder(config, self.pixel_path.channels)
        if config.lora:
            add_lora(self.language_model, config.lora)
        self.post_init()

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> Self:
        """Load a model from a folder of any kind, or from the hub; see `model.checkpoints.load`.

        Args:
            folder: this project's own, the published one, a training checkpoint; else a hub id.
            kwargs: `dtype` of the weights (float32 where it is not named), `clip`, `sam2` and `fusion` for a
                folder without them, and the hub's `revision`, `cache_dir`, `token`, `local_files_only`.

        Raises:
            UserError: the folder holds no model, or a tensor is missing, surplus or misshapen.
            TypeError: an option that is not known.
        """
        return load_with_options(cls, folder, kwargs)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As in transformers; weights are as readable as the config.json beside them."""
        self._check_not_quantized("saved")
        super().save_pretrained(save_directory, *args, **kwargs)
        folder = Path(save_directory)
        if kwargs.get("is_main_process", True):  # which alone writes config.json
            set_modes(folder.glob("*.safetensors"), stat.S_IMODE((folder / CONFIG_FILE).stat().st_mode))

    def cast(self, dtype: torch.dtype) -> PixDLMForCausalLM:
        """Cast the weights to `dtype`, in place. Buffers stay float32: bf16 would round RoPE's frequencies and the
        position codes' by up to 0.2 %, which is half a radian at the end of a prompt."""
        self._check_not_quantized("cast")
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As PyTorch's; all that saves, merges or exports takes the weights from here, which quantised ones refuse."""
        self._check_not_quantized("saved, merged or exported")
        return super().state_dict(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """As PyTorch's; a quantised model is for inference."""
        if mode:
            self._check_not_quantized("trained")
        return super().train(mode)

    def _check_not_quantized(self, what: str) -> None:
        if self.load_in is not None:
            raise UserError(
                f"a model that was loaded in {self.load_in} cannot be {what}, as its weights are rounded; load it "
                "without --load-in (load_in=None)"
            )

    def use_flash_attention(self) -> bool:
        """Let the language model attend by flash-attn where that is installed and fits; returns whether it does.

        It fits half precision on GPUs of compute capability 8 and above. PIXDLM_FLASH_ATTENTION=0 switches it off.
        """
        weight = self.projector.weight
        fits = (
            weight.is_cuda
            and weight.dtype in (torch.bfloat16, torch.float16)
            and is_flash_attn_2_available()
            and torch.cuda.get_device_capability(weight.device) >= FLASH_CAPABILITY
            and os.environ.get("PIXDLM_FLASH_ATTENTION") != "0"
        )
        if fits:
            self.language_model.set_attn_implementation("flash_attention_2")
        return fits

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: every part has been initialised by its own class."""

    def forward(
        self, batch: Batch, loss_weights: LossWeights | None = None, features: ImageFeatures | None = None
    ) -> PixDLMOutput:
        """Answer every question of a batch with masks, teacher-forced: the answer stands in the prompt.

        Args:
            batch: see `model.inputs.batch.Batch`; its prompts hold the answer.
            loss_weights: compute the losses with these weights; None for masks alone.
            features: of these pictures, where `encode_images` was called already.

        Raises:
            ValueError: a prompt has no image placeholder, or no whole groups of [SEG] tokens.
        """
        features = features or self.encode_images(batch)
        as_published = loss_weights is not None and not self.config.mask_padded_questions
        embeddings, image_start = self.embed_prompts(batch, features.tokens, padding_counts=as_published)
        hidden = last_hidden_states(self.language_model, embeddings)
        positions = batch.token_positions(self.config)
        states = self.seg_states(hidden, positions)
        masks = self.mask_decoder(features.pyramid, positions.mask_picture, self.seg_projection(states))
        output = PixDLMOutput(mask_logits=list(masks.split(positions.mask_counts)))
        if loss_weights is not None:
            self.add_losses(output, batch, hidden, loss_weights)
            if loss_weights.grounding:
                image = hidden[positions.mask_question, image_start : image_start + self.config.image_tokens]
                similarity = self.seg_image_similarity(states, image)
                self.add_grounding(output, batch, similarity, loss_weights.grounding)
        return output

    def encode_images(self, batch: Batch) -> ImageFeatures:
        """Both visual paths and their fusion, once a picture."""
        pyramid = self.pixel_path(batch.clip_pixels if batch.sam_pixels is None else batch.sam_pixels)
        fused = self.semantic_path(batch.clip_pixels, pyramid[0], self.fusion)
        tokens = self.projector(resize_tokens(fused, self.config.image_grid))
        return ImageFeatures(pyramid, tokens, batch.geometries)

    def embed_prompts(self, batch: Batch, tokens: Tensor, padding_counts: bool = False) -> tuple[Tensor, int]:
        """Prompts with the conditioned image tokens in place: float[Q, L + N - 1, D], and where these start.

        Args:
            batch: of the prompts.
            tokens: float[I, N, D], of the pictures.
            padding_counts: let padded question tokens take part in the text conditioning, as the published code
                did in its training batches. Its evaluation had one question a batch, where nothing is padded, so
                that anywhere else they are masked: a mask must not depend on the questions beside it.
        """
        question = question_features(self.language_model, batch.question_ids, batch.question_mask)
        mask = None if padding_counts else batch.question_mask
        conditioned = condition_on_text(tokens[batch.image_index], question, mask)
        image_start = batch.token_positions(self.config).image_start
        return insert_image(self.language_model, batch.input_ids, conditioned, image_start), image_start

    @staticmethod
    def seg_states(hidden: Tensor, positions: TokenPositions) -> Tensor:
        """The hidden states that predict each [SEG] token: float[Q, L + N - 1, D] -> float[M * 9, D]"""
        row, column = positions.seg_states
        return hidden[row, column]

    @staticmethod
    def seg_image_similarity(states: Tensor, image: Tensor) -> Tensor:
        """Dot products of each [SEG] group's mean state with the image tokens' states, scaled as in attention:
        float[M * 9, D], float[M, N, D] -> float[M, N]"""
        groups = states.unflatten(0, (-1, SCALES * TOKENS_PER_SCALE)).mean(dim=1)
        return torch.einsum("md,mnd->mn", groups, image) / image.shape[-1] ** 0.5

    def add_losses(self, output: PixDLMOutput, batch: Batch, hidden: Tensor, weights: LossWeights) -> None:
        """Fill in the weighted losses; masks are compared in the frame's geometry, at the size of the targets."""
        positions = batch.token_positions(self.config)
        logits = [
            frame_logits(one.float(), batch.geometries[image], self.config, tuple(masks.shape[-2:]))
            for one, image, masks in zip(output.mask_logits, positions.pictures, batch.masks, strict=True)
        ]
        scored = positions.scored_states, positions.scored, positions.words
        ce, text = answer_losses(self.language_model, hidden, *scored)
        bce, dice = mask_losses(logits, batch.masks, batch.has_ignored_pixels)
        output.ce_loss = weights.ce * ce
        output.mask_bce_loss = weights.bce * bce
        output.mask_dice_loss = weights.dice * dice
        output.loss = output.ce_loss + output.mask_bce_loss + output.mask_dice_loss
        if positions.words:
            output.text_loss = weights.text * text
            output.loss = output.loss + output.text_loss
        if weights.overlap:
            output.overlap_loss = weights.overlap * mean_overlap_loss(logits, batch.masks, batch.has_ignored_pixels)
            output.loss = output.loss + output.overlap_loss

    def add_grounding(self, output: PixDLMOutput, batch: Batch, similarity: Tensor, weight: float) -> None:
        """Fill in the grounding loss of similarities to the image tokens, float[M, N], and add it to the sum."""
        output.grounding_loss = weight * grounding_loss(similarity, batch.masks, self.config.image_grid)
        output.loss = output.loss + output.grounding_loss

    @torch.no_grad()
    def generate_answers(
        self,
        batch: Batch,
        decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
        features: ImageFeatures | None = None,
        reasoning_ids: Sequence[int] = (),
        heard: Callable[[list[int]], None] | None = None,
    ) -> list[list[int]]:
        """Generate what follows the prompts, with a KV cache.

        Args:
            batch: its prompts end where the model is to go on.
            decoding: greedy by default.
            features: of these pictures, where `encode_images` was called already.
            reasoning_ids: of `<think>` and `</think>`, which are not written where `decoding` excludes reasoning.
            heard: called with the ids so far after every token; of one question, and without beams.

        Returns:
            new token ids of every question, without padding and without `</s>`

        Raises:
            ValueError: the prompts fill the language model's context, or several questions are to be heard.
        """
        features = features or self.encode_images(batch)
        embeddings, _ = self.embed_prompts(batch, features.tokens)
        lengths = batch.attention_mask.sum(dim=1) + self.config.image_tokens - 1
        # generate() appends on the right, so the padding has to move to the left.
        padding = embeddings.shape[1] - lengths
        columns = torch.arange(embeddings.shape[1], device=embeddings.device)
        order = (columns - padding[:, None]) % embeddings.shape[1]
        embeddings = embeddings.gather(1, order[..., None].expand_as(embeddings))
        # each has its own room, whatever longer prompts stand beside it
        rooms = (self.config.text_config.max_position_embeddings - lengths).tolist()
        if min(rooms) < 1:
            raise ValueError(f"prompts of {embeddings.shape[1]} tokens leave no room for an answer")
        written = self.language_model.generate(
            inputs_embeds=embeddings,
            attention_mask=(columns >= padding[:, None]).long(),
            max_new_tokens=min(decoding.max_new_tokens, max(rooms)),
            **decoding.options(list(reasoning_ids)),
            streamer=None if heard is None else TokenStream(heard),
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
        )
        rows = zip(written.tolist(), rooms, strict=True)
        return [[i for i in row[:room] if i not in (PAD_ID, EOS_ID)] for row, room in rows]


def load_model(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backbones: Backbones = Backbones(),  # noqa: B008 (frozen)
    load_in: str | None = None,
) -> tuple[PixDLMForCausalLM, PixTokenizer]:
    """Load model and tokenizer of a folder, strictly: every tensor is accounted for. In evaluation mode.

    Args:
        folder: of any kind that `model.checkpoints.load.load_pretrained` reads.
        device: of the model.
        dtype: of its weights.
        backbones: files that a published folder does not hold.
        load_in: quantise the language model's layers so, one of `model.quantization.LOAD_IN`.

    Raises:
        UserError: the folder is no model folder, or its weights are damaged or do not fit; all
            missing, surplus and misshapen tensors are listed.
    """
    tokenizer, config = load_tokenizer(Path(folder))
    quantize = {"load_in": load_in, "device": device}
    model = load_pretrained(PixDLMForCausalLM, folder, dtype, backbones, config=config, **quantize)
    model.to(device).use_flash_attention()
    return model, tokenizer
