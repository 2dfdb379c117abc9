"""PixDLMConfig: every fact of the architecture (the named ones are in `model.presets`).

A difference between `release`, `native` and `mini` is a field that is read where it acts; no other
place asks which of them a model is (model/checkpoints/README.md, "What the published checkpoint computes").
"""

from __future__ import annotations

from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, PretrainedConfig

from model.language.answers import ANSWER_FORMATS, SEG
from model.language.tokens import VICUNA_SYSTEM

GEOMETRIES = ("centre_crop", "letterbox")
PIXEL_INPUTS = ("clip_tensor", "frame")
CLIP_POSITIONS = ("published_shift", "class_first")
SIZES = (
    "pixel_image_size",
    "image_grid",
    "mask_width",
    "mask_heads",
    "mask_mlp_width",
    "mask_embed_width",
    "pixel_embed_width",
    "mask_size",
    "max_sequence",
)

FLAGS = (
    "pixel_pyramid",
    "mask_padded_questions",
    "trainable_fusion",
    "trainable_token_weights",
    "single_target",
    "neutral_fusion",
)
LLAMA_DERIVED = ("head_dim", "num_key_value_heads")  # follow from the other fields where they are not named
LORA_FIELDS = {"r", "alpha", "dropout", "targets"}


class PixDLMConfig(PretrainedConfig):
    """The architecture of a PixDLM, saved as `config.json` beside its weights.

    Args:
        text_config: the Llama (a LlamaConfig or its dictionary).
        vision_config: the CLIP vision model, with the `image_size` that it runs at (448 as published).
        pixel_encoder: a name known to the `sam2` package ("hiera_t", "hiera_s", "hiera_b+", "hiera_l")
            or a dictionary with `trunk` and `neck` arguments of its Hiera and FpnNeck classes.
        pixel_image_size: side in pixels of the square that the pixel path sees.
        pixel_input: "clip_tensor" enlarges CLIP's tensor (published), "frame" takes the frame itself.
        pixel_pyramid: the mask decoder reads SAM2's three levels; else one map three times (published).
        geometry: "centre_crop" loses the sides of a wide frame and stretches the mask back
            (published), "letterbox" keeps the whole frame and maps masks back exactly.
        clip_positions: "published_shift" or "class_first"; see `semantic_path.resize_positions`.
        mask_padded_questions: whether padded question tokens are masked in the text conditioning of a training
            batch; they take part as published, and are masked in evaluation and inference always.
        trainable_fusion: whether the fusion may train.
        trainable_token_weights: whether the weights of [SEG] tokens and of scales are parameters.
        single_target: one target an answer (several targets of a record become their union).
        image_grid: side of the grid of image tokens that the language model reads.
        mask_width: channels of the mask decoder. 256 as published.
        mask_heads: heads of its attention.
        mask_mlp_width: width of its feed-forward layers.
        mask_embed_width: channels of the finest map and of the mask embedding that is multiplied with it.
        pixel_embed_width: channels between `pixel_embed` and `neck` (Llama's width as published).
        mask_size: side in pixels of the square of mask logits.
        system_prompt: the sentence that opens every conversation.
        answer_format: what its answers hold, as it was trained: "seg" ([SEG] groups alone, published), "answer" (words
            before them) or "reasoning" (reasoning and answer before them).
        max_sequence: longer training sequences, image tokens included, are truncated.
        lora: None, or {"r", "alpha", "dropout", "targets"} of adapters present in the weights.
        neutral_fusion: the fusion passes CLIP's tokens on unchanged, as its weights were not published; results are
            marked.

    Raises:
        ValueError: a field has a value that is not known or does not fit another one.
    """

    model_type = "pixdlm"
    sub_configs = {"text_config": LlamaConfig, "vision_config": CLIPVisionConfig}

    def __init__(
        self,
        text_config: LlamaConfig | dict[str, Any] | None = None,
        vision_config: CLIPVisionConfig | dict[str, Any] | None = None,
        pixel_encoder: str | dict[str, Any] = "hiera_l",
        pixel_image_size: int = 1024,
        pixel_input: str = "frame",
        pixel_pyramid: bool = True,
        geometry: str = "letterbox",
        clip_positions: str = "class_first",
        mask_padded_questions: bool = True,
        trainable_fusion: bool = True,
        trainable_token_weights: bool = True,
        single_target: bool = False,
        image_grid: int = 16,
        mask_width: int = 256,
        mask_heads: int = 8,
        mask_mlp_width: int = 2048,
        mask_embed_width: int = 32,
        pixel_embed_width: int = 4096,
        mask_size: int = 256,
        system_prompt: str = VICUNA_SYSTEM,
        answer_format: str = SEG,
        max_sequence: int = 512,
        lora: dict[str, Any] | None = None,
        neutral_fusion: bool = False,
        **kwargs: Any,
    ) -> None:
        self.text_config = _sub_config(LlamaConfig, text_config)
        self.vision_config = _sub_config(CLIPVisionConfig, vision_config)
        self.pixel_encoder = pixel_encoder
        self.pixel_image_size = pixel_image_size
        self.pixel_input = pixel_input
        self.pixel_pyramid = pixel_pyramid
        self.geometry = geometry
        self.clip_positions = clip_positions
        self.mask_padded_questions = mask_padded_questions
        self.trainable_fusion = trainable_fusion
        self.trainable_token_weights = trainable_token_weights
        self.single_target = single_target
        self.image_grid = image_grid
        self.mask_width = mask_width
        self.mask_heads = mask_heads
        self.mask_mlp_width = mask_mlp_width
        self.mask_embed_width = mask_embed_width
        self.pixel_embed_width = pixel_embed_width
        self.mask_size = mask_size
        self.system_prompt = system_prompt
        self.answer_format = answer_format
        self.max_sequence = max_sequence
        self.lora = lora
        self.neutral_fusion = neutral_fusion
        kwargs.setdefault("architectures", ["PixDLMForCausalLM"])
        kwargs["tie_word_embeddings"] = False
        super().__init__(**kwargs)
        self._check()

    @property
    def clip_grid(self) -> int:
        """Patches along a side of CLIP's input."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def pixel_grid(self) -> int:
        """Positions along a side of SAM2's coarsest level (stride 16)."""
        return self.pixel_image_size // 16

    @property
    def image_tokens(self) -> int:
        """Number of image tokens in a prompt."""
        return self.image_grid**2

    def _check(self) -> None:
        for field, known in (
            ("geometry", GEOMETRIES),
            ("pixel_input", PIXEL_INPUTS),
            ("clip_positions", CLIP_POSITIONS),
            ("answer_format", ANSWER_FORMATS),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} is {getattr(self, field)!r}; known are {', '.join(known)}")
        for field in SIZES:
            if type(getattr(self, field)) is not int or getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)!r}, expected a whole number above 0")
        for field in FLAGS:
            if type(getattr(self, field)) is not bool:
                raise ValueError(f"{field} is {getattr(self, field)!r}, expected true or false")
        if self.lora is not None and set(self.lora) != LORA_FIELDS:
            raise ValueError(f"lora is {self.lora!r}, expected {', '.join(sorted(LORA_FIELDS))}")
        layers = self.vision_config.num_hidden_layers
        if layers % 4:
            raise ValueError(f"CLIP has {layers} layers; four equal stages need a multiple of 4")
        if self.vision_config.image_size % self.vision_config.patch_size:
            raise ValueError(
                f"CLIP's image_size {self.vision_config.image_size} is no multiple of "
                f"its patch_size {self.vision_config.patch_size}"
            )
        if self.pixel_image_size % 32:
            raise ValueError(f"pixel_image_size {self.pixel_image_size} is no multiple of 32, SAM2's coarsest stride")


def _sub_config(kind: type[PretrainedConfig], value: PretrainedConfig | dict[str, Any] | None) -> PretrainedConfig:
    if isinstance(value, kind):
        return value
    return kind(**(value or {}))
