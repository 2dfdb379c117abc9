"""EarthReason, reasoning segmentation in satellite pictures (SegEarth-R1), in its published layout.

    ROOT/RSReasonSeg/{train,val,test}/images/NAME.jpg      (or .jpeg, .png; ROOT may be RSReasonSeg itself)
    ROOT/RSReasonSeg/{train,val,test}/labels/NAME.png      (any value but 0 is the target)
    ROOT/RSReasonSeg/{train,val,test}/QAs/NAME.json        (or .txt with JSON in it)

A file of questions is `{questions: [text, …], answer: [text, …]}`. All of a picture's questions ask for the one target,
and all answers describe it; where `answer` is empty, nothing in the picture answers, and the mask is empty.

The published loader (earth-insights/SegEarth-R1@e796b3b RS_val_dataset.py) sorts the three folders and pairs their
files by position, so that one file too many shifts all that follow. Here they are paired by NAME, and one that lacks
a partner is a bad record. Validation and test ask the first question of a picture, as published; training asks every
one, the answers being taken in turn since there may be fewer of them.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from utils.datasets.base import GENERAL_METRICS, BadRecord, DatasetSpec, Sample, ScoringRules
from utils.datasets.checks import checked_question_text, shortened
from utils.datasets.label_masks import read_label_mask
from utils.datasets.layout import check_split_name, folder_or_inner, missing_part
from utils.datasets.reading import Reading, SplitReader
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.paths import entries, is_folder

NAME = "earthreason"
SPLITS = ("train", "val", "test")
NO_TARGET_ANSWER = "There is no target object in the image."  # as SegEarth-R1 answers where `answer` is empty
PARTS = {"images": (".jpg", ".jpeg", ".png"), "labels": (".png",), "QAs": (".json", ".txt")}
LAYOUT = (
    "RSReasonSeg/{split}/images/NAME.jpg (or .jpeg, .png)\nRSReasonSeg/{split}/labels/NAME.png\n"
    "RSReasonSeg/{split}/QAs/NAME.json (or .txt)"
)
SOURCE = "https://huggingface.co/datasets/earth-insights/EarthReason"


def load_earthreason(root: Path, split: str, reading: Reading, skipped: list[str] | None = None) -> list[Sample]:
    """All samples of a split, checked; masks are decoded and kept as run lengths.

    Args:
        root: the folder that holds `RSReasonSeg`, or that folder.
        split: "train", "val" or "test".
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: there is no such split, or a folder of it is missing.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    check_split_name(NAME, split, SPLITS)
    folder = folder_or_inner(root, "RSReasonSeg") / split
    for part in PARTS:
        if not is_folder(folder / part):
            raise missing_part(root, folder / part, LAYOUT, SOURCE)
    reader = SplitReader(folder, reading, skipped)
    for name, files in _by_name(folder).items():
        with reader.record():
            _add_picture(reader, name, files, every_question=split == "train")
    return reader.finish()


def _by_name(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """The files of each part by their names without ending, sorted."""
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: {part: [] for part in PARTS})
    for part, endings in PARTS.items():
        for path in entries(folder / part):
            if path.suffix.lower() in endings:
                found[path.stem][part].append(path)
    return dict(sorted(found.items()))


def _add_picture(reader: SplitReader, name: str, files: dict[str, list[Path]], every_question: bool) -> None:
    """The samples of a picture.

    Raises:
        BadRecord: it lacks a file, has two of a kind, or one cannot be used.
    """
    where = f"{reader.file}: {name!r}"
    for part, paths in files.items():
        if len(paths) != 1:
            told = f"several files in {part}: {', '.join(path.name for path in paths)}" if paths else f"none in {part}"
            raise BadRecord(f"{where} needs one file in each of {', '.join(PARTS)}, but has {told}")
    picture, label, asked = (files[part][0] for part in PARTS)
    questions, answers = read_questions(f"{where}: QAs/{asked.name}", asked, every_question)
    mask = read_label_mask(where, label)
    photograph = reader.photograph(where, picture, mask.frame)
    if answers and not mask.pixels:
        raise BadRecord(f"{where}: its mask {label} is empty, but its questions have answers")
    if mask.pixels and not answers:
        raise BadRecord(f"{where}: its questions have no answer, but its mask {label} marks {mask.pixels} pixels")
    targets = (mask.rle,) if answers else ()
    texts = answers or [NO_TARGET_ANSWER]
    reader.samples += [
        Sample(
            image_path=photograph.path,
            question=question,
            answer=texts[i % len(texts)],
            targets=targets,
            height=mask.frame[0],
            width=mask.frame[1],
            dataset=NAME,
            record_id=name,
            index=len(reader.samples) + i,
            source=where,
            key=f"{name}#{i}" if every_question else name,
            picture_size=photograph.picture_size,
            upright=photograph.upright,
        )
        for i, question in enumerate(questions)
    ]


def read_questions(where: str, file: Path, every_question: bool) -> tuple[list[str], list[str]]:
    """Questions to ask of a picture, and all its answers; none where it has no target.

    Raises:
        BadRecord: the file is no JSON, or lacks one of the two lists of texts.
    """
    try:
        record = read_json(file, strict=False)
    except UserError as error:
        raise BadRecord(f"{where}: {error}") from error
    lists: list[list[Any]] = []
    for field in ("questions", "answer"):
        value = record.get(field) if isinstance(record, dict) else None
        if not isinstance(value, list):
            raise BadRecord(f"{where}: {field} is {shortened(value)}, expected a list of texts")
        lists.append(value)
    questions, answers = lists
    if not questions:
        raise BadRecord(f"{where} has no question")
    for i, answer in enumerate(answers):
        if not isinstance(answer, str) or not answer.strip():
            raise BadRecord(f"{where}: answer {i} is {shortened(answer)}, expected a text")
    asked = questions if every_question else questions[:1]
    texts = [checked_question_text(f"{where}: question {i}", question) for i, question in enumerate(asked)]
    return texts, [answer.strip() for answer in answers]


PRECISIONS = tuple(f"pr{share}" for share in (50, 60, 70, 80, 90))
SPEC = DatasetSpec(
    name=NAME,
    splits=SPLITS,
    layout=LAYOUT,
    source=SOURCE,
    loader=load_earthreason,
    rules={
        "clean": ScoringRules(metrics=(*GENERAL_METRICS, *PRECISIONS), unit="question"),
        "official": ScoringRules(
            unit="question",
            metrics=("giou", "ciou", *(f"{name}_strict" for name in PRECISIONS)),
            canvas="letterbox1024",
            precision_of_all=True,
            note="SegEarth-R1's evaluation hands its model the annotated answer along with the question, and keeps the "
            "best scored of several masks; here the model sees the question alone, and each of its masks counts. "
            "Smoothing by 1e-5 and 1e-10 is left out",
        ),
    },
    no_target=True,
)
