"""Pictures and questions in, masks out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from model.inputs.images import frame_logits
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import Sample
from utils.datasets.loading.collate import Collator
from utils.runtime.errors import UserError


@torch.inference_mode()
def ask(
    model: PixDLMForCausalLM, tokenizer: PixTokenizer, picture: Path, question: str, limit: int, dtype: torch.dtype
) -> tuple[str, torch.Tensor]:
    """Let the model write its answer, then read the mask of every whole [SEG] group in it.

    Returns:
        the text, and logits float[K, H, W] in the picture's geometry; K is 0 without a [SEG] group

    Raises:
        UserError: the picture or the question cannot be used, or a logit is not finite.
    """
    sample = Sample(picture, question, None, (), 1, 1, None, None, "infer", picture.name, 0)
    batch = Collator(model.config, tokenizer, answered=False)([sample]).to(model.device, dtype)
    seen = model.see(batch)  # once: the forced answer needs the picture again
    (written,) = model.generate_answers(batch, limit, seen)
    groups = tokenizer.seg_groups(written)
    if not groups:
        geometry = batch.geometries[0]
        return tokenizer.decode(written), torch.zeros(0, geometry.height, geometry.width)
    ids = torch.cat([batch.input_ids, torch.tensor([whole_groups(tokenizer, written)], device=model.device)], dim=1)
    forced = replace(batch, input_ids=ids, attention_mask=torch.ones_like(ids, dtype=torch.bool))
    (logits,) = model(forced, seen=seen).mask_logits
    if not torch.isfinite(logits).all():
        raise UserError(f"{picture}: the mask's logits are not finite; use --precision fp32")
    return tokenizer.decode(written), frame_logits(logits.float(), batch.geometries[0], model.config)


def whole_groups(tokenizer: PixTokenizer, written: list[int]) -> list[int]:
    """An answer as it can be forced: up to its last whole [SEG] group, without [SEG] tokens of broken ones."""
    groups = tokenizer.seg_groups(written)
    whole = {position for group in groups for position in group}
    return [token for i, token in enumerate(written[: max(whole) + 1]) if i in whole or token not in tokenizer.seg_ids]
