"""Photographs and questions into what the model reads, found by `AutoProcessor`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import PushToHubMixin

from model.config import PixDLMConfig
from model.language.tokens import TOKENIZER_FILE, PixTokenizer

if TYPE_CHECKING:
    from model.inputs.batch import Batch

PROCESSOR_FILE = "processor_config.json"  # names the class alone; sizes and geometry are in config.json


class PixDLMProcessor(PushToHubMixin):
    """A model folder's tokenizer and geometry.

    Args:
        config: of the model.
        tokenizer: of the model.
    """

    def __init__(self, config: PixDLMConfig, tokenizer: PixTokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> PixDLMProcessor:
        """The processor of a model folder, or of a repository on the hub.

        Raises:
            UserError: no configuration or tokenizer in it.
        """
        from model.checkpoints.layouts import local_folder
        from model.checkpoints.load import load_tokenizer

        tokenizer, config = load_tokenizer(local_folder(folder, kwargs))
        return cls(config, tokenizer)

    def save_pretrained(self, folder: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `tokenizer.model` and the file that names this class; `push_to_hub` as in transformers."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.tokenizer.path, folder / TOKENIZER_FILE)
        (folder / PROCESSOR_FILE).write_text(f'{{"processor_class": "{type(self).__name__}"}}\n')
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    def __call__(self, pictures: list[str | Path], questions: list[str], targets: int | None = 1) -> Batch:
        """A batch of questions, each about the picture at the same place of the list.

        Args:
            pictures: files; one that is named several times is encoded once.
            questions: in plain words.
            targets: force an answer with so many masks; None ends the prompt where the answer begins.

        Raises:
            UserError: a picture cannot be decoded or a question cannot be asked.
        """
        from utils.datasets.base import Sample
        from utils.datasets.loading.collate import Collator

        nothing = ((0.0,) * 6,)  # a target without pixels: asking needs its place in the answer, not its mask
        targets_of = (nothing,) * (targets or 0)
        samples = [
            Sample(Path(picture), question, None, targets_of, 1, 1, None, None, "", Path(picture).name, index)
            for index, (picture, question) in enumerate(zip(pictures, questions, strict=True))
        ]
        collator = Collator(self.config, self.tokenizer, answered=targets is not None)
        return collator.collate(samples)
