"""Grounded descriptions: texts whose phrases are marked `<p> phrase </p> [SEG]`, a mask for each."""

from __future__ import annotations

import re

INSTRUCTION = "Describe the image in detail and mark each thing that you name."
PHRASE = re.compile(r"<p>(.*?)</p>\s*\[SEG\]", re.DOTALL)
TAG = re.compile(r"<.*?>", re.DOTALL)
SEG = "[SEG]"

# In `Sample.groups`, one for each target: whether a phrase names one object or several.
PHRASE_KINDS = "phrase_kinds"
UNI_TARGET, MULTI_TARGET = KINDS = ("uni-target", "multi-target")


def plain_text(description: str) -> str:
    """A description without tags and [SEG], white space squeezed, as GLaMM's eval/gcg/infer.py cleans answers.

    A blank that stood between a tag and a comma stays.
    """
    return " ".join(TAG.sub("", description).replace(SEG, "").split())


def marked_phrases(description: str) -> list[str]:
    """The phrases that have a [SEG], in their order."""
    return [" ".join(phrase.split()) for phrase in PHRASE.findall(description)]
