"""utils.hints: some prompts are told their target's place, fewer and fewer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from model.pixdlm import PixDLMForCausalLM
from utils import hints
from utils.collate import Batch
from utils.hints import draw_hints, hint_share, place_of


def test_the_share_falls_to_nothing() -> None:
    assert [hint_share(step, 0.6, 300) for step in (0, 150, 299, 300, 1000)] == pytest.approx([0.6, 0.3, 0.002, 0, 0])
    assert hint_share(0, 0.6, 0) == 0


def test_a_place_is_the_middle_of_the_target_on_the_square() -> None:
    target = torch.zeros(90, 160, dtype=torch.uint8)
    target[18:54, 40:120] = 1
    torch.testing.assert_close(place_of(target), torch.tensor([80 / 160, 36 / 160]))
    assert place_of(torch.zeros_like(target)).isnan().all()


def test_so_many_questions_get_a_hint_on_each_of_their_masks(collate: Callable[..., Batch]) -> None:
    batch = collate()
    masks = [mask for group in batch.masks for mask in group]
    all_told = draw_hints(batch, 1.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(all_told, torch.stack([place_of(mask) for mask in masks]))
    assert draw_hints(batch, 0.0, torch.Generator()) is None
    generator, told = torch.Generator().manual_seed(0), []
    for _ in range(200):
        known = ~draw_hints(batch, 0.3, generator).isnan().any(dim=1)
        groups = known.split([len(group) for group in batch.masks])
        assert all(group.all() or not group.any() for group in groups)
        told += [bool(group[0]) for group in groups]
    assert 0.26 < sum(told) / len(told) < 0.34


def test_processes_draw_what_one_draws(collate: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    one = draw_hints(collate(0, 1, 2, 3), 0.5, torch.Generator().manual_seed(7))
    assert one.isnan().any() and not one.isnan().all()
    monkeypatch.setattr(hints, "world", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(hints, "rank", lambda rank=rank: rank)
        parts.append(draw_hints(collate(2 * rank, 2 * rank + 1), 0.5, torch.Generator().manual_seed(7)))
    torch.testing.assert_close(torch.cat(parts), one, equal_nan=True)


def test_a_hint_changes_its_own_mask_alone(collate: Callable[..., Batch], tiny_model: PixDLMForCausalLM) -> None:
    batch = collate(0, 1)
    places = draw_hints(batch, 1.0, torch.Generator())
    places[1:] = float("nan")
    with torch.no_grad():
        plain, told = (torch.cat(tiny_model(batch, hints=hint).mask_logits) for hint in (None, places))
    torch.testing.assert_close(told[1:], plain[1:])
    assert not torch.allclose(told[0], plain[0], atol=1e-3)
