"""How alike two phrases are, from 0 to 1: by BERT, as GLaMM measures it, or by the words they share."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

log = logging.getLogger(__name__)

Similarity = Callable[[str, str], float]
BERT = "bert-base-uncased"  # mbzuai-oryx/groundingLMM@e74865f, eval/gcg/evaluate.py
BY_BERT = f"by cosine of {BERT}"
BY_WORDS = f"by F1 of their words, a stand-in for {BERT}, whose weights are not in the cache of Hugging Face"
MAX_TOKENS = 512


def word_overlap(one: str, other: str) -> float:
    """F1 of the words of two phrases, in lower case and as often as they occur."""
    first, second = (Counter(re.findall(r"\w+", phrase.lower())) for phrase in (one, other))
    shared = sum((first & second).values())
    return 2 * shared / (first.total() + second.total()) if shared else 0.0


class BertSimilarity:
    """Cosine of the mean of BERT's last hidden states, [CLS] and [SEP] among them, on the CPU.

    Args:
        source: name in the cache of Hugging Face, or a folder; nothing is downloaded.

    Raises:
        OSError: it is not there.
    """

    def __init__(self, source: str | Path = BERT) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        self.model = AutoModel.from_pretrained(source, local_files_only=True).eval()
        self.mean = lru_cache(maxsize=65536)(self._mean)

    @torch.inference_mode()
    def _mean(self, phrase: str) -> np.ndarray:
        """float32[D]"""
        inputs = self.tokenizer(phrase, return_tensors="pt", max_length=MAX_TOKENS, truncation=True)
        return self.model(**inputs).last_hidden_state[0].mean(dim=0).numpy()

    def __call__(self, one: str, other: str) -> float:
        first, second = self.mean(one), self.mean(other)
        return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def phrase_similarity() -> tuple[str, Similarity]:
    """How phrases are compared here, in words, and what does it: BERT where its weights are in the cache."""
    try:
        return BY_BERT, BertSimilarity()
    except OSError as error:
        log.debug("no BERT: %s", error)
        return BY_WORDS, word_overlap
