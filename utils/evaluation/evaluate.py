"""An evaluation from data set to report, of one data set or of several one after the other.

A model is loaded once, when the first data set has been read and can be asked about.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from model.checkpoints.backbones import Backbones
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from model.processor import PixDLMProcessor
from utils.datasets.base import DatasetSpec, Sample
from utils.datasets.registry import dataset_spec
from utils.evaluation.controls import NO_CONTROL
from utils.evaluation.finish import check_finite
from utils.evaluation.predict import Loading, predict
from utils.evaluation.predictions import FILE, PartialPredictions, Record, claimed, read_predictions
from utils.evaluation.protocols import Protocol
from utils.evaluation.report.overlays import check_own_overlays, draw_overlays
from utils.evaluation.report.page import write_report
from utils.evaluation.results import RunFacts, run_header, write_results
from utils.evaluation.score import score_and_print
from utils.evaluation.split import askable_controls, read_split
from utils.runtime.distributed import barrier, rank, world_size
from utils.runtime.errors import print_result
from utils.runtime.files import make_output_folder, write_errors_as_user_error
from utils.runtime.logs import peak_memory_gib

log = logging.getLogger(__name__)

Loaded = tuple[PixDLMForCausalLM, PixTokenizer, Callable[..., Any] | None]


@dataclass
class Evaluator:
    """A model that is evaluated, and how it is asked.

    Args:
        folder: of the model, for messages and results.
        backbones: files for weights that the folder lacks.
        processor: of the model, which needs no weights.
        protocol: how it is asked; controls are added for each data set.
        load: loads the model: model, tokenizer, and what is called instead of the model where it is sharded.
        dtype: of weights and pixels.
    """

    folder: Path
    backbones: Backbones
    processor: PixDLMProcessor
    protocol: Protocol
    load: Callable[[], Loaded]
    dtype: torch.dtype

    @cached_property
    def loaded(self) -> Loaded:
        """The model, loaded when it is first needed."""
        return self.load()

    def evaluate(self, options: Any, out: Path) -> dict[str, Any] | None:
        """Evaluate on a split, or go on with that, and write all that is told of it to a folder.

        Args:
            options: of eval.py, which name data set, folder and split.
            out: the folder.

        Returns:
            the content of metrics.json on rank 0, None elsewhere

        Raises:
            UserError: data or model cannot be used, or a file cannot be written.
        """
        make_output_folder(out)
        check_own_overlays(out / "overlays")
        with claimed(out):
            samples, data = read_split(options, self.processor, self.protocol)
            predictions = self.answers(options, out, samples, data)
            if rank():
                return None
            with write_errors_as_user_error(out / FILE):
                predictions.finish([sample.key for sample in samples])
            metrics = write_scores(options, out, samples, data, dataset_spec(options.dataset))
            predictions.discard()
        log.info("written to %s", out)
        return metrics

    def answers(self, options: Any, out: Path, samples: list[Sample], data: dict[str, Any]) -> PartialPredictions:
        """Ask about all samples and write the answers as they come."""
        protocol, spec = self.protocol, dataset_spec(options.dataset)
        if options.controls:
            protocol = protocol.with_controls(askable_controls(samples, self.processor, protocol))
        model, tokenizer, runner = self.loaded
        facts = RunFacts(asdict(options), protocol, spec, data, model, self.folder, self.backbones, self.dtype)
        predictions = PartialPredictions(out, run_header(facts) if rank() == 0 else {})
        started = time.perf_counter()
        title = f"evaluating {options.dataset} {options.split}"
        loading = Loading(options.pass_size, options.batch_size, options.workers, self.dtype, title)

        def write(records: list[Record]) -> None:
            predictions.write(check_finite(str(self.folder), records))

        predict(model, tokenizer, samples, protocol, loading, write, predictions.records, runner)
        predictions.close()
        barrier()
        seconds = time.perf_counter() - started
        log.info(
            "%d records in %.1f s (%.1f a second) on %d processes; at most %.2f GiB in this one",
            *(len(samples), seconds, len(samples) / seconds, world_size(), peak_memory_gib()),
        )
        return predictions


def write_scores(
    options: Any, out: Path, samples: list[Sample], data: dict[str, Any], spec: DatasetSpec
) -> dict[str, Any]:
    """Everything that is made of predictions.jsonl: table, metrics.json, scores.jsonl, report and overlays."""
    header, records = read_predictions(out / FILE)
    # printed before the files are written: a full disk does not cost the table
    metrics, lines = score_and_print(header, records, samples, data, spec, metric=options.metric)
    if header["protocol"]["neutral_fusion"]:
        print_result("neutral fusion: CLIP alone reaches the language model, so this is not the published model")
    write_results(out, metrics, lines)
    draw_overlays(out / "overlays", options.overlays, samples, records[NO_CONTROL], lines)
    page = out / "report.html"
    if options.report:
        write_report(page, [out], samples, spec)
    else:
        page.unlink(missing_ok=True)  # of an earlier evaluation, whose numbers are gone
    return metrics
