"""METEOR and CIDEr of descriptions, by pycocoevalcap where it and Java are there; it is no requirement (100 MB)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec

NEEDED = "pycocoevalcap"
METRICS = {"meteor": ("meteor.meteor", "Meteor"), "cider": ("cider.cider", "Cider")}


def missing_for_captions() -> str:
    """What METEOR and CIDEr need and lack here, in words; "" where nothing is missing."""
    lacking = []
    if find_spec(NEEDED) is None:
        lacking.append(f"the package {NEEDED} (pip install {NEEDED})")
    if shutil.which("java") is None:
        lacking.append("Java, which its tokenizer and METEOR run in")
    return f"METEOR and CIDEr are left out: {' and '.join(lacking)} missing" if lacking else ""


def caption_scores(references: Mapping[str, str], answers: Mapping[str, str]) -> dict[str, float]:
    """METEOR and CIDEr over all pictures, both tokenized as the Penn Treebank is.

    Args:
        references: the description of each picture, by its key.
        answers: of the same keys; "" where there is none.
    """
    tokenize = import_module(f"{NEEDED}.tokenizer.ptbtokenizer").PTBTokenizer().tokenize
    sides = [
        tokenize({key: [{"caption": " ".join(side[key].split())}] for key in references})
        for side in (references, answers)
    ]
    found = {}
    for name, (module, scorer) in METRICS.items():
        score, _ = getattr(import_module(f"{NEEDED}.{module}"), scorer)().compute_score(*sides)
        found[name] = float(score)
    return found
