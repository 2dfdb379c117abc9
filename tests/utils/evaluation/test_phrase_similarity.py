"""utils.evaluation.phrase_similarity: how alike two phrases are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from utils.evaluation import phrase_similarity as module
from utils.evaluation.phrase_similarity import BERT, BertSimilarity, phrase_similarity, word_overlap


@pytest.mark.parametrize(
    ("one", "other", "f1"),
    [
        ("a red car", "A red car.", 1),
        ("a car", "the car", 1 / 2),  # one of two words on either side
        ("two cars", "two small cars", 4 / 5),
        ("the car the road", "the the the", 4 / 7),  # "the" is shared twice
        ("a car", "boats", 0),
        ("", "", 0),
    ],
)
def test_words_are_shared(one: str, other: str, f1: float) -> None:
    assert word_overlap(one, other) == pytest.approx(f1)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "car", "road"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=16, **shape)).save_pretrained(folder)
    return folder


def test_bert_compares_means_of_all_its_states(bert: Path) -> None:
    alike = BertSimilarity(bert)
    model = BertModel.from_pretrained(bert).eval()
    with torch.no_grad():  # [CLS] a car [SEP] and [CLS] road [SEP]
        means = [model(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in ([2, 5, 6, 3], [2, 7, 3])]
    assert alike("a car", "road") == pytest.approx(float(torch.cosine_similarity(*means, dim=0)), abs=1e-5)
    assert alike("a car", "A car") == pytest.approx(1, abs=1e-5)


def test_where_its_weights_are_not_at_hand_a_stand_in_is_named(monkeypatch: pytest.MonkeyPatch, bert: Path) -> None:
    def absent() -> None:
        raise OSError("not in the cache")

    monkeypatch.setattr(module, "BertSimilarity", absent)
    told, alike = phrase_similarity()
    assert alike is word_overlap and told.startswith("by F1 of their words, a stand-in for bert-base-uncased")
    monkeypatch.setattr(module, "BertSimilarity", lambda: BertSimilarity(bert))
    assert phrase_similarity()[0] == f"by cosine of {BERT}"
