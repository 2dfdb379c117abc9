"""model.inputs.token_positions: what is found in prompts, kept and moved with a batch, found anew in others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.config import PixDLMConfig
from model.inputs import batch as batch_module
from model.inputs.batch import Batch
from model.inputs.token_positions import TokenPositions, find_token_positions
from model.language.tokens import EOS_ID, IGNORE_INDEX, IMAGE_INDEX

Collate = Callable[..., Batch]


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[TokenPositions]:
    """Grows with every search."""
    made: list[TokenPositions] = []
    monkeypatch.setattr(
        batch_module, "find_token_positions", lambda *given: made.append(find_token_positions(*given)) or made[-1]
    )
    return made


def test_places_of_prompts_written_by_hand(tiny_config: PixDLMConfig) -> None:
    """Two questions about picture 3 and 1; one mask, and two masks behind a word that is scored too."""
    first, shift = tiny_config.text_config.vocab_size - 15, tiny_config.image_tokens - 1
    seg = list(range(first, first + 9))
    short, long = [1, IMAGE_INDEX, 7, *seg, EOS_ID], [1, IMAGE_INDEX, 7, 8, *seg, *seg, EOS_ID]
    labels = [[*[IGNORE_INDEX] * 3, *short[3:], *[IGNORE_INDEX] * 10], [*[IGNORE_INDEX] * 3, *long[3:]]]
    ids = torch.tensor([short + [0] * 10, long])
    found = find_token_positions(ids, torch.tensor(labels), torch.tensor([3, 1]), tiny_config)
    assert (found.image_start, found.pictures, found.mask_counts) == (1, [3, 1], [1, 2])
    assert found.answers == [short[3:], long[3:]]
    assert found.words == 1 and found.scored.tolist() == [8] + short[3:] + long[4:]  # words first
    assert found.mask_question.tolist() == [0, 1, 1] and found.mask_picture.tolist() == [3, 1, 1]
    before = [(0, shift + i - 1) for i in range(3, 12)] + [(1, shift + i - 1) for i in range(4, 22)]
    assert list(zip(*found.seg_states.tolist(), strict=True)) == before
    places = [(1, 3), *((0, i) for i in range(3, 13)), *((1, i) for i in range(4, 23))]
    scored = [(row, shift + i - 1) for row, i in places]
    assert list(zip(*found.scored_states.tolist(), strict=True)) == scored


@pytest.mark.parametrize(
    "ids",
    [
        [[1, 7, 8], [1, IMAGE_INDEX, 8]],
        [[1, IMAGE_INDEX, 8], [1, 7, IMAGE_INDEX]],
        [[IMAGE_INDEX, IMAGE_INDEX, 8], [1, 7, 8]],
        [[1, IMAGE_INDEX, IMAGE_INDEX], [1, IMAGE_INDEX, IMAGE_INDEX]],
        [[1, 7, 8], [1, 7, 8]],
    ],
)
def test_every_prompt_needs_one_placeholder_at_one_place(tiny_config: PixDLMConfig, ids: list[list[int]]) -> None:
    prompts = torch.tensor(ids)
    with pytest.raises(ValueError, match="image placeholder exactly once and at the same position"):
        find_token_positions(
            prompts, torch.full_like(prompts, IGNORE_INDEX), torch.zeros(2, dtype=torch.long), tiny_config
        )


def test_a_batch_is_searched_once_and_moves_with_what_was_found(
    collate: Collate, tiny_config: PixDLMConfig, searches: list[TokenPositions]
) -> None:
    batch = collate(0, 4)
    moved = replace(batch.to("cpu", torch.bfloat16), samples=[]).to("meta")
    assert (
        batch.token_positions(tiny_config) is batch.token_positions(tiny_config)
        and moved.token_positions(tiny_config).scored.is_meta
    )
    assert len(searches) == 1


def write_ids(batch: Batch) -> Batch:
    batch.input_ids[batch.labels >= 0] = EOS_ID
    return batch


def assign_ids(batch: Batch) -> Batch:
    batch.input_ids = write_ids(copy.deepcopy(batch)).input_ids
    return batch


CHANGES = {
    "written to": write_ids,
    "assigned": assign_ids,
    "replaced": lambda batch: replace(batch, input_ids=assign_ids(copy.deepcopy(batch)).input_ids),
    "replaced and moved": lambda batch: assign_ids(batch).to("cpu", torch.bfloat16),
    "written to after a move": lambda batch: write_ids(batch.to("cpu", torch.bfloat16)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_prompts_have_other_places(
    collate: Collate, tiny_config: PixDLMConfig, searches: list[TokenPositions], change: str
) -> None:
    batch = CHANGES[change](collate(0, 4))
    assert batch.token_positions(tiny_config).mask_counts == [0, 0] and len(searches) == 2


def test_other_labels_and_pictures_count_as_well(collate: Collate, tiny_config: PixDLMConfig) -> None:
    batch = collate(0, 4)
    silent = replace(batch, labels=torch.full_like(batch.labels, IGNORE_INDEX))
    assert silent.token_positions(tiny_config).answers == [[], []]
    assert replace(batch, image_index=torch.tensor([1, 0])).token_positions(tiny_config).pictures == [1, 0]


def test_places_are_of_one_size_of_model(collate: Collate, tiny_config: PixDLMConfig) -> None:
    batch, larger = collate(0), copy.deepcopy(tiny_config)
    larger.image_grid = 8
    shift = larger.image_tokens - tiny_config.image_tokens

    def columns(config: PixDLMConfig) -> Tensor:
        return batch.token_positions(config).seg_states[1]

    assert torch.equal(columns(tiny_config) + shift, columns(larger))


@torch.inference_mode()
def test_inference_tensors_which_count_no_writes_are_told_apart_by_themselves(
    collate: Collate, tiny_config: PixDLMConfig, searches: list[TokenPositions]
) -> None:
    batch = collate(0, 4)
    assert (
        batch.input_ids.is_inference()
        and batch.token_positions(tiny_config).mask_counts == [1, 2]
        and len(searches) == 1
    )
    assert CHANGES["replaced"](batch).token_positions(tiny_config).mask_counts == [0, 0]
