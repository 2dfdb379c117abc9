"""Special tokens, prompts, token ids and labels.

Published weights were trained on the ids of the old slow ("legacy") SentencePiece tokenizer: the
text is cut at every special token, white space next to a cut is dropped, and every piece between two
cuts is encoded by SentencePiece on its own. The tokenizers of transformers 5 give other ids for the
same string, so the ids are built here, explicitly (model/checkpoints/README.md, "Tokens").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from utils.runtime.errors import UserError
from utils.runtime.paths import is_file, is_folder
from utils.runtime.text import code_points, lone_surrogate, shows_nothing

IGNORE_INDEX = -100  # a label that is not scored (PyTorch's cross entropy)
IMAGE_INDEX = -200  # the placeholder that the image tokens replace
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2  # <unk> doubles as padding, as in Llama's vocabulary

IMAGE_TOKEN = "<image>"
SCALES, TOKENS_PER_SCALE = 3, 3
SEG_TOKENS = tuple(f"[SEG{i}]" for i in range(SCALES * TOKENS_PER_SCALE))
REASONING_TOKENS = ("<think>", "</think>", "<answer>", "</answer>")
IMAGE_MARKS = ("<im_start>", "<im_end>")
ADDED_TOKENS = SEG_TOKENS + REASONING_TOKENS + IMAGE_MARKS  # in the order of their ids
CONTROL_TOKENS = {"<unk>": PAD_ID, "<s>": BOS_ID, "</s>": EOS_ID}

VICUNA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
TOKENIZER_FILE = "tokenizer.model"


@dataclass(frozen=True)
class Prompt:
    """Ids and labels of one question, unpadded. `ids` holds IMAGE_INDEX once; `labels[i]` scores `ids[i]`."""

    ids: list[int]
    labels: list[int]


class PixTokenizer:
    """A SentencePiece vocabulary plus the added tokens, with legacy ids.

    Args:
        model_file: the `tokenizer.model`; added tokens get the ids that follow its last piece.
        system: the sentence that opens every conversation ("" for none).
        vocabulary: the model's vocabulary size, whose last ids are the added tokens; default: the file's pieces
            and the added tokens.

    Raises:
        UserError: the file is missing, is no SentencePiece model or has too many pieces for the vocabulary.
    """

    def __init__(self, model_file: Path | str, system: str = VICUNA_SYSTEM, vocabulary: int | None = None) -> None:
        path = Path(model_file)
        if is_folder(path):
            path = path / TOKENIZER_FILE
        if not is_file(path):
            raise UserError(f"{path}: no such tokenizer file; it comes with the checkpoint (SentencePiece model)")
        try:
            content = path.read_bytes()  # by us, for it reads no file whose name is not UTF-8
            if not content:
                raise RuntimeError("the file is empty")
            self.pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{path}: not a SentencePiece model ({error})") from error
        self.path = path
        self.system = system
        base = self.pieces.vocab_size() if vocabulary is None else vocabulary - len(ADDED_TOKENS)
        if base < self.pieces.vocab_size():
            raise UserError(f"{path}: {self.pieces.vocab_size()} pieces, more than the {base} that the model has")
        self.vocabulary = base + len(ADDED_TOKENS)
        self.special = {**CONTROL_TOKENS, **{token: base + i for i, token in enumerate(ADDED_TOKENS)}}
        self.special[IMAGE_TOKEN] = IMAGE_INDEX
        self.seg_ids = [self.special[token] for token in SEG_TOKENS]
        self._names = {i: token for token, i in self.special.items()}
        self._cut = re.compile("(" + "|".join(re.escape(token) for token in self.special) + ")")
        opening = f"{system} " if system else ""
        self._opening = self.encode(f"{opening}USER: <im_start>{IMAGE_TOKEN}<im_end>\n")  # the same for all questions

    def __len__(self) -> int:
        return self.vocabulary

    def encode(self, text: str) -> list[int]:
        """The legacy ids of `text` with BOS first; IMAGE_INDEX stands for `<image>`."""
        ids = [BOS_ID]
        for piece in self._cut.split(text):
            if piece in self.special:
                ids.append(self.special[piece])
            elif piece.strip():
                ids.extend(self.pieces.encode(piece.strip()))
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`; added tokens are written out; BOS, EOS and padding are skipped."""
        words, run = [], []
        for i in [*ids, None]:
            if i is not None and i not in self._names:
                run.append(i)
                continue
            if run:
                words.append(self.pieces.decode(run))
                run = []
            if i is not None and i not in (PAD_ID, BOS_ID, EOS_ID):
                words.append(self._names[i])
        return " ".join(words)

    def question(self, question: str) -> list[int]:
        """Ids of the bare question, for the question features: BOS and the text, no template.

        Raises:
            ValueError: see `prompt`.
        """
        ids = self.pieces.encode(self._checked(question))
        if not ids:  # a vocabulary may drop letters that others show
            raise ValueError(f"nothing of the question is left by this tokenizer ({code_points(question)}); reword it")
        return [BOS_ID, *ids]

    def prompt(self, question: str, targets: int = 1, answered: bool = True, words: str = "") -> Prompt:
        """The conversation about one question.

        Args:
            question: in plain words.
            targets: how many [SEG] groups the answer has, in the order of the targets.
            answered: with the [SEG] groups (training, teacher-forced evaluation) or ending before them (generation).
            words: that the answer begins with (`model.language.answers.answer_words`).

        Raises:
            ValueError: the question is none (`checked_question`) or holds a special token.
        """
        # as the whole text gives them: it is cut at <im_end>, and the question holds no other place to cut
        ids = [*self._opening, *self.pieces.encode(f"{self._checked(question)} ASSISTANT:")]
        answer = self.encode(words)[1:]
        if answered:
            answer += self.seg_ids * targets + [EOS_ID]
        return Prompt(ids + answer, [IGNORE_INDEX] * len(ids) + answer)

    def seg_groups(self, ids: list[int]) -> list[list[int]]:
        """Positions of every whole [SEG0]…[SEG8] group in `ids`, in order."""
        size = len(self.seg_ids)
        starts = [i for i in range(len(ids) - size + 1) if ids[i : i + size] == self.seg_ids]
        return [list(range(start, start + size)) for start in starts]

    def _checked(self, question: str) -> str:
        question = checked_question(question)
        found = self._cut.search(question)
        if found:
            raise ValueError(f"the question contains the special token {found.group()!r}; leave it out")
        return question


def checked_question(question: str) -> str:
    """A question without the white space around it.

    Raises:
        ValueError: it is empty, shows nothing, or cannot be written as UTF-8, which SentencePiece reads.
    """
    question = question.strip()
    if not question:
        raise ValueError("the question is empty; ask something")
    broken = lone_surrogate(question)
    if broken:
        raise ValueError(f"the question holds {broken}; write it anew")
    if shows_nothing(question):
        raise ValueError(f"the question shows nothing ({code_points(question)}); ask something")
    return question
