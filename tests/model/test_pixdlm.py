"""The whole model: one mask a target whatever shares the batch, losses, gradients, written answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from model import pixdlm
from model.inputs.batch import Batch
from model.inputs.images import frame_logits
from model.language.conditioning import base_model
from model.language.tokens import EOS_ID, IMAGE_INDEX, PAD_ID
from model.losses import LossWeights
from model.masks import IGNORE_LABEL
from model.parts import DEFAULT_TRAINED, part_of, set_trainable
from model.pixdlm import PixDLMForCausalLM

Collate = Callable[..., Batch]
LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss")


def close(found: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def targets(batch: Batch) -> list[int]:
    return [len(mask) for mask in batch.masks]


# Masks


@torch.no_grad()
def test_every_target_has_a_mask(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate()
    masks = tiny_model(batch).mask_logits
    assert [tuple(mask.shape) for mask in masks] == [(count, 32, 32) for count in targets(batch)]
    assert {1, 2} <= set(targets(batch))


@torch.no_grad()
def test_a_picture_is_encoded_once_for_all_its_questions(
    tiny_model: PixDLMForCausalLM, collate: Collate, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = tiny_model.pixel_path.encoder.forward
    monkeypatch.setattr(tiny_model.pixel_path.encoder, "forward", lambda x: seen.append(len(x)) or encode(x))
    batch = collate()
    assert (len(batch), len(batch.clip_pixels)) == (11, 4)
    tiny_model(batch)
    assert seen == [4]


@torch.no_grad()
def test_a_question_gets_the_masks_that_it_gets_alone(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    """Among questions of other lengths, about its own picture and about others."""
    batched = tiny_model(collate()).mask_logits
    for number, masks in enumerate(batched):
        close(tiny_model(collate(number)).mask_logits, [masks])


@torch.no_grad()
def test_the_order_of_questions_does_not_matter(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    order = [8, 3, 10, 0, 4, 7, 1, 2, 9, 6, 5]
    masks = tiny_model(collate()).mask_logits
    close(tiny_model(collate(*order)).mask_logits, [masks[number] for number in order])


@torch.no_grad()
def test_different_questions_and_different_targets_get_different_masks(
    tiny_model: PixDLMForCausalLM, collate: Collate
) -> None:
    batch = collate()
    masks = tiny_model(batch).mask_logits
    assert (masks[0] - masks[1]).abs().max() > 1e-4  # one picture
    two = targets(batch).index(2)
    assert (masks[two][0] - masks[two][1]).abs().max() > 1e-4


@torch.no_grad()
def test_a_mask_reads_the_states_that_predict_its_tokens(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    """With whole prompts in hand: each state is the one before its [SEG] token, behind the image."""
    batch = collate(0, 3, 4)
    ids, room = batch.input_ids, tiny_model.config.image_tokens - 1
    hidden = []
    handle = tiny_model.language_model.model.register_forward_hook(lambda *a: hidden.append(a[2].last_hidden_state))
    seen = []
    handle_of_states = tiny_model.seg_projection.register_forward_pre_hook(lambda _, given: seen.append(*given))
    tiny_model(batch)
    handle.remove()
    handle_of_states.remove()
    first = tiny_model.config.text_config.vocab_size - 15
    places = [
        (row, i)
        for row, one in enumerate(ids.tolist())
        for i, token in enumerate(one)
        if token in range(first, first + 9)
    ]
    assert torch.equal(seen[0], torch.stack([hidden[-1][row, i + room - 1] for row, i in places]))
    assert batch.token_positions(tiny_model.config).mask_question.tolist() == [row for row, _ in places][::9]


def test_a_broken_group_is_refused(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate(0)
    batch.input_ids[0, -2] = EOS_ID  # instead of [SEG8]
    with pytest.raises(ValueError, match=r"have \[8\] \[SEG\] tokens, which are no whole groups of 9"):
        tiny_model(batch)


def test_two_broken_groups_do_not_make_a_whole_one(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    """Ten in one question and eight in the other: the tenth would become the other's first."""
    batch = collate(0, 1)
    first = tiny_model.config.text_config.vocab_size - 15
    ends = (batch.input_ids == first + 8).nonzero()[:, 1].tolist()
    batch.input_ids[0, ends[0] + 1] = first  # instead of </s>
    batch.input_ids[1, ends[1]] = EOS_ID
    with pytest.raises(ValueError, match="whole groups of 9"):
        tiny_model(batch)


@torch.no_grad()
def test_a_picture_changes_the_masks_by_both_its_paths(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate(0)
    (before,) = tiny_model(batch).mask_logits
    for field in ("clip_pixels", "sam_pixels"):
        (after,) = tiny_model(replace(batch, **{field: getattr(batch, field).flip(-1)})).mask_logits
        assert (after - before).abs().max() > 1e-4


# Losses and gradients


def test_losses_are_there_only_with_weights(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate(0, 4)
    plain = tiny_model(batch)
    assert all(getattr(plain, name) is None for name in (*LOSSES, "overlap_loss", "grounding_loss"))
    output = tiny_model(batch, LossWeights())
    assert all(getattr(output, name).isfinite() for name in LOSSES)
    assert output.overlap_loss is None and output.grounding_loss is None


def test_the_loss_is_the_weighted_sum(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate()
    ones = tiny_model(batch, LossWeights(1.0, 1.0, 1.0, 1.0, 1.0))
    weighted = tiny_model(batch, LossWeights(ce=2.0, bce=3.0, dice=5.0, overlap=7.0, grounding=11.0))
    names = ("ce_loss", "mask_bce_loss", "mask_dice_loss", "overlap_loss", "grounding_loss")
    for name, weight in zip(names, (2.0, 3.0, 5.0, 7.0, 11.0), strict=True):
        torch.testing.assert_close(getattr(weighted, name), weight * getattr(ones, name))
    torch.testing.assert_close(weighted.loss, sum(getattr(weighted, name) for name in names))


def test_likeness_is_of_each_groups_mean_to_its_own_questions_tokens() -> None:
    states, image = torch.randn(2 * 9, 16), torch.randn(2, 5, 16)
    found = PixDLMForCausalLM.seg_image_similarity(states, image)
    for mask, group in enumerate(states.split(9)):
        torch.testing.assert_close(found[mask], image[mask] @ group.mean(dim=0) / 4)


def test_grounding_compares_with_the_tokens_of_the_image(
    tiny_model: PixDLMForCausalLM, collate: Collate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The states behind the placeholder, in the question's own row, and nothing of the words around it."""
    batch = collate(0, 4)
    seen = {}
    insert = tiny_model.embed_prompts

    def embed(batch: Batch, tokens: Tensor, **options: bool) -> tuple[Tensor, int]:
        embeddings, seen["place"] = insert(batch, tokens, **options)
        return embeddings, seen["place"]

    def seg_image_similarity(states: Tensor, image: Tensor) -> Tensor:
        seen.update(states=states, image=image)
        return PixDLMForCausalLM.seg_image_similarity(states, image)

    monkeypatch.setattr(tiny_model, "embed_prompts", embed)
    monkeypatch.setattr(tiny_model, "seg_image_similarity", seg_image_similarity)
    hidden = []
    handle = tiny_model.language_model.model.register_forward_hook(lambda *a: hidden.append(a[2].last_hidden_state))
    tiny_model(batch, LossWeights(grounding=1.0))
    handle.remove()
    count, row = tiny_model.config.image_tokens, []
    for question, masks in enumerate(batch.masks):
        row += [question] * len(masks)
    expected = hidden[-1][row, seen["place"] : seen["place"] + count]
    assert seen["image"].shape[1] == count and (batch.input_ids[:, seen["place"]] == IMAGE_INDEX).all()
    torch.testing.assert_close(seen["image"], expected)
    assert len(seen["states"]) == 9 * len(row)


def test_masks_are_scored_in_the_frames_own_geometry(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate(0, 10)  # frames of 60 x 80 and 180 x 120
    output = tiny_model(batch, LossWeights(bce=1.0))
    losses = []
    for masks, image, truth in zip(output.mask_logits, batch.image_index, batch.masks, strict=True):
        logits = frame_logits(masks, batch.geometries[image], tiny_model.config)
        losses.append(torch.nn.functional.binary_cross_entropy_with_logits(logits, truth.float()))
    torch.testing.assert_close(output.mask_bce_loss, sum(losses) / 2)


def test_every_trained_part_gets_a_gradient_and_no_other(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    set_trainable(tiny_model, set(DEFAULT_TRAINED))
    tiny_model(collate(), LossWeights()).loss.backward()
    reached = {part_of(name) for name, p in tiny_model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == set(DEFAULT_TRAINED)


def test_every_weight_that_a_mask_depends_on_gets_a_gradient(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    """After one step: what starts at zero shields what lies before it."""
    unused = ("iou_head.", "hypernetworks.1", "hypernetworks.2", "hypernetworks.3", "post_layernorm")
    unused += tuple(f"prompt_encoder.{name}" for name in ("point_emb", "not_a_point", "mask_downscaling"))
    optimiser = torch.optim.SGD(tiny_model.parameters(), lr=0.05)
    for _ in range(2):
        optimiser.zero_grad()
        tiny_model(collate(), LossWeights()).loss.backward()
        optimiser.step()
    without = {name for name, p in tiny_model.named_parameters() if p.grad is None or not p.grad.any()}
    assert {name for name in without if not any(part in name for part in unused)} <= {
        "semantic_path.clip.embeddings.class_embedding"
    }


@pytest.mark.parametrize(
    ("there", "dtype", "used"),
    [
        (True, torch.bfloat16, True),
        (True, torch.float16, True),
        (True, torch.float32, False),
        (False, torch.bfloat16, False),
    ],
)
def test_flash_attention_is_taken_where_it_fits(
    tiny_model: PixDLMForCausalLM, monkeypatch: pytest.MonkeyPatch, there: bool, dtype: torch.dtype, used: bool
) -> None:
    asked = []
    monkeypatch.setattr(pixdlm, "is_flash_attn_2_available", lambda: there)
    monkeypatch.setattr(tiny_model.language_model, "set_attn_implementation", asked.append)
    capability = [8, 0]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: tuple(capability))
    weight = SimpleNamespace(is_cuda=True, dtype=dtype, device="cuda:0")
    tiny_model.__dict__["projector"] = SimpleNamespace(weight=weight)  # before the module of this name
    assert tiny_model.use_flash_attention() == used and asked == ["flash_attention_2"] * used
    monkeypatch.setenv("PIXDLM_FLASH_ATTENTION", "0")
    assert not tiny_model.use_flash_attention()
    monkeypatch.delenv("PIXDLM_FLASH_ATTENTION")
    capability[:] = [7, 5]
    assert not tiny_model.use_flash_attention()
    capability[:], weight.is_cuda = [9, 0], False
    assert not tiny_model.use_flash_attention()


# Answers that the model writes itself


@torch.no_grad()
def greedy(model: PixDLMForCausalLM, batch: Batch, limit: int) -> list[int]:
    """One question's answer: a full forward pass for every new token."""
    embeddings, _ = model.embed_prompts(batch, model.encode_images(batch).tokens)
    written: list[int] = []
    while len(written) < limit:
        hidden = base_model(model.language_model)(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        token = int(model.language_model.lm_head(hidden[:, -1]).argmax())
        if token == EOS_ID:
            break
        written.append(token)
        new = base_model(model.language_model).embed_tokens(torch.tensor([[token]]))
        embeddings = torch.cat([embeddings, new], dim=1)
    return written


@pytest.fixture
def writer(tiny_model: PixDLMForCausalLM) -> PixDLMForCausalLM:
    """With weights so large that its answers differ and change from word to word."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in tiny_model.language_model.named_parameters():
            if name.endswith("proj.weight"):
                parameter.copy_(torch.randn_like(parameter) * 0.3)
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(torch.randn_like(parameter))
        tiny_model.language_model.lm_head.weight[[PAD_ID, EOS_ID]] = 0.0
    return tiny_model


def test_answers_are_those_of_a_plain_greedy_loop(writer: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate(answered=False)
    assert len(set(batch.attention_mask.sum(dim=1).tolist())) > 3  # lengths
    expected = [greedy(writer, collate(number, answered=False), 12) for number in range(11)]
    assert len({tuple(one) for one in expected}) > 3 and len(set(expected[0])) > 3
    assert writer.generate_answers(batch, max_new_tokens=12) == expected


def test_an_answer_ends_at_its_end_token_and_others_go_on(writer: PixDLMForCausalLM, collate: Collate) -> None:
    """The token that the first answer has fourth becomes the end."""
    batch, weight = collate(0, 4, 5, 6, answered=False), writer.language_model.lm_head.weight
    before = writer.generate_answers(batch, max_new_tokens=10)
    end = before[0][3]
    with torch.no_grad():
        weight[EOS_ID] = weight[end]
        weight[end] = 0.0
    written = writer.generate_answers(batch, max_new_tokens=10)
    assert written == [one[: one.index(end)] if end in one else one for one in before]
    assert len(written[0]) <= 3 and max(map(len, written)) == 10


def test_a_model_in_training_writes_without_gradient(writer: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate(0, answered=False)
    expected = writer.generate_answers(batch, max_new_tokens=4)
    writer.train()
    assert writer.generate_answers(batch, max_new_tokens=4) == expected
    assert all(parameter.grad is None for parameter in writer.parameters())


# Half precision


@torch.no_grad()
def test_half_precision_gives_nearly_the_same_masks(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate()
    expected = torch.cat(tiny_model(batch).mask_logits)
    found = torch.cat(tiny_model.bfloat16()(batch.to("cpu", torch.bfloat16)).mask_logits)
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().mean() < 0.1 * expected.std()


def test_half_precision_trains(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    expected = tiny_model(collate(), LossWeights()).loss
    output = tiny_model.bfloat16()(collate().to("cpu", torch.bfloat16), LossWeights())
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert all(parameter.grad.isfinite().all() for parameter in tiny_model.parameters() if parameter.grad is not None)


# Options


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("weights", [None, LossWeights()])
def test_padding_of_questions_takes_part_in_a_published_training_batch_alone(
    tiny_model: PixDLMForCausalLM, collate: Collate, masked: bool, weights: LossWeights | None
) -> None:
    tiny_model.config.mask_padded_questions = masked
    batch = collate(0, 4)
    assert not batch.question_mask.all()
    masks = tiny_model(batch, weights).mask_logits
    shifts = [
        (tiny_model(collate(number), weights).mask_logits[0] - mask).abs().max()
        for number, mask in zip((0, 4), masks, strict=True)
    ]
    assert (max(shifts) < 1e-5) == (masked or weights is None)


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [4, 8])
def test_an_answer_does_not_depend_on_the_questions_beside_it(
    writer: PixDLMForCausalLM, collate: Collate, masked: bool, size: int
) -> None:
    """Evaluation and generation: the same masks and words at batch 1, 4 and 8."""
    writer.config.mask_padded_questions = masked
    together, asked = collate(*range(size)), collate(*range(size), answered=False)
    masks, written = writer(together).mask_logits, writer.generate_answers(asked, 6)
    for number in range(size):
        alone = writer(collate(number)).mask_logits[0]
        torch.testing.assert_close(masks[number], alone, atol=1e-4 * float(alone.std()) + 1e-5, rtol=1e-4)
        assert writer.generate_answers(collate(number, answered=False), 6) == [written[number]]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradient_checkpointing_changes_no_gradient(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    tiny_model.train()
    batch, found = collate(0, 4, 5), []
    for switch in (tiny_model.gradient_checkpointing_disable, tiny_model.gradient_checkpointing_enable):
        switch()
        tiny_model.zero_grad()
        tiny_model(batch, LossWeights()).loss.backward()
        found.append({name: p.grad.clone() for name, p in tiny_model.named_parameters() if p.grad is not None})
    assert tiny_model.is_gradient_checkpointing
    torch.testing.assert_close(found[1], found[0])


@torch.no_grad()
@pytest.mark.parametrize("silent", [0, 1])
def test_a_question_without_an_answer_has_no_mask_beside_one_that_has(
    tiny_model: PixDLMForCausalLM, collate: Collate, silent: int
) -> None:
    batch = collate(0, 1)
    batch.input_ids[silent][batch.labels[silent] >= 0] = EOS_ID
    assert [len(masks) for masks in tiny_model(batch).mask_logits] == [0 if i == silent else 1 for i in (0, 1)]


@torch.no_grad()
def test_a_batch_without_targets_has_no_masks(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    """Prompts without an answer have no [SEG] tokens."""
    masks = tiny_model(collate(0, 4, answered=False)).mask_logits
    assert [tuple(mask.shape) for mask in masks] == [(0, 32, 32)] * 2


@torch.no_grad()
def test_ignored_pixels_of_a_batch_reach_the_losses(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    batch, weights = collate(0, 2), LossWeights(bce=1.0, overlap=1.0)
    for masks in batch.masks:
        masks[..., 40:] = IGNORE_LABEL
    output = tiny_model(replace(batch, has_ignored_pixels=True), weights)
    losses = []
    for masks, image, truth in zip(output.mask_logits, batch.image_index, batch.masks, strict=True):
        logits = frame_logits(masks, batch.geometries[image], tiny_model.config)[..., :40]
        losses.append(torch.nn.functional.binary_cross_entropy_with_logits(logits, truth[..., :40].float()))
    torch.testing.assert_close(output.mask_bce_loss, sum(losses) / 2)
    assert output.overlap_loss == 0 and output.mask_dice_loss.isfinite()
