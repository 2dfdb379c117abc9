"""What tables and page call controls, statuses of answers, and ways of decoding."""

from __future__ import annotations

from typing import Any

from model.answering import BROKEN, NO_SEG, OK
from utils.evaluation.controls import BLANK_QUESTION, SHUFFLED_QUESTIONS, SWAPPED_IMAGES
from utils.evaluation.metrics import TARGET_COUNT, TARGET_SIZE
from utils.evaluation.scoring import MISSING, WRONG_COUNT

CONTROL_TITLES = {
    SHUFFLED_QUESTIONS: "questions shuffled",
    SWAPPED_IMAGES: "images swapped",
    BLANK_QUESTION: "question blank",
}
# For columns of text, ten characters wide.
SHORT_CONTROL_TITLES = {SHUFFLED_QUESTIONS: "shuffled", SWAPPED_IMAGES: "swapped", BLANK_QUESTION: "blank"}
BREAKDOWN_TITLES = {TARGET_SIZE: "target size", TARGET_COUNT: "targets a question"}  # beside a data set's groups
ANSWER_TITLES = {
    OK: "as asked for",
    NO_SEG: "without [SEG]",
    BROKEN: "with a broken [SEG] group",
    WRONG_COUNT: "with a wrong number of masks",
    MISSING: "missing",
    "malformed": "malformed text",
}


def decoding_words(decoding: Any) -> str:
    """How answers were decoded; "" where nothing was written, and what is no object as it is."""
    if not isinstance(decoding, dict):
        return str(decoding or "")
    temperature, beams, most = (decoding.get(name) for name in ("temperature", "beams", "max_new_tokens"))
    words = [f"{beams} beams" if beams not in (None, 1) else "" if temperature else "greedy"]
    if temperature:
        sampled = (("top-p", decoding.get("top_p")), ("seed", decoding.get("seed")))
        words += [f"temperature {temperature:g}", *(f"{name} {value}" for name, value in sampled if value is not None)]
    words.append(f"at most {most} tokens" if most else "")
    return ", ".join(filter(None, words))
