"""Options of eval.py."""

from __future__ import annotations

from dataclasses import dataclass

from model.language.decoding import Decoding
from utils.cli.options import InferenceArgs, check_at_least, check_one_of, option, parse
from utils.datasets.registry import dataset_spec
from utils.evaluation.predict import Loading
from utils.evaluation.protocols import FORCED, KINDS, OWN_REASONING, REASONINGS
from utils.runtime.errors import UserError


@dataclass
class EvalArgs(InferenceArgs):
    """Options of eval.py. The architecture comes from --model alone."""

    model: str = option("", "Model folder, e.g. PixDLM/mini or runs/native/best.")
    data: str = option("", "Folder of the data set, e.g. data/DRSeg.")
    split: str = option("test", "Split to evaluate.")
    out: str = option("runs/eval", "Where predictions, scores, report and overlays go.")
    dataset: str = option("drseg", "Name of the data set's format.")
    benchmarks: str | None = option(
        None, "Evaluate on several, e.g. drseg,reasonseg@val,refcoco, or all; --data then names folders, NAME=FOLDER,… "
        "or a YAML file, where they are not in the usual places. What is not on disk is skipped."
    )  # fmt: skip
    metric: str = option("clean", "Rules of scoring: clean, official, or others that the data set has.")
    polygons: str = option("union", "A target's polygons: their union, or only the first (published reading).")
    orientation: str = option("check", "Orientation tags: apply them, read as stored, or check (refuse where open).")
    skip_bad_records: bool = option(False, "Count and list records that cannot be used instead of stopping.")
    protocol: str = option("forced", "forced (as published: the [SEG] groups are given) or generate.")
    reasoning: str | None = option(
        None, "What stands before the groups: none, own (the model's words) or given (the data set's, which are ground "
        "truth); default: own for a model that has learnt words, else none."
    )  # fmt: skip
    max_new_tokens: int = option(256, "Longest text that the model writes, in tokens.")
    temperature: float = option(0.0, "Sample at this temperature; 0 is greedy.")
    top_p: float = option(1.0, "With --temperature: sample from the fewest tokens whose probabilities reach this.")
    beams: int = option(1, "Beams of the search.")
    controls: bool = option(False, "Ask again with shuffled questions, with swapped images and with a blank question.")
    seed: int = option(0, "Seed of shuffled questions and of sampling.")
    report: bool = option(True, "Write report.html.")
    overlays: int = option(0, "How many pictures of frame, prediction and ground truth to draw.")
    limit: int | None = option(None, "Evaluate the first N records only; named in the results.")
    batch_size: int = option(Loading.batch_size, "Answers that are written at once; no result depends on it.")
    pass_size: int = option(
        Loading.pass_size, "Records of a forward pass at most; those of one picture stay together as far as they fit. "
        "Another number may change last digits."
    )  # fmt: skip
    workers: int = option(2, "Processes that decode pictures, for each evaluating process.")
    shard: bool = option(False, "Shard the weights over the processes (ZeRO-3): for a model larger than a GPU.")
    offload: bool = option(False, "With --shard: keep the shards in CPU memory until they are needed.")
    threads: int = option(1, "CPU threads of a process; another number may change last digits. NPROC is faster.")


def parse_eval(argv: list[str] | None = None) -> EvalArgs:
    """eval.py's options, checked.

    Raises:
        UserError: an option has a value that cannot be.
    """
    args = parse(EvalArgs, argv)
    for name in ("model", "data"):
        if not getattr(args, name) and not (name == "data" and args.benchmarks):
            raise UserError(f"--{name} is not given; name a folder, e.g. --model PixDLM/mini --data data/DRSeg-mini")
    check_one_of(args, "protocol", KINDS)
    if args.reasoning is not None:
        check_one_of(args, "reasoning", REASONINGS)
    decoding_of(args)
    if not args.benchmarks:
        dataset_spec(args.dataset).scoring(args.metric)
    if args.shard and (args.protocol != FORCED or args.reasoning == OWN_REASONING or args.controls):
        raise UserError(
            "--shard gathers weights for one teacher-forced pass a batch; leave out --protocol generate, --reasoning "
            "own and --controls, or --shard"
        )
    if args.shard and args.load_in:
        raise UserError("--shard and --load-in are two ways to fit a large model in; leave one out")
    check_at_least(args, 1, "batch_size", "pass_size", "threads")
    check_at_least(args, 0, "workers", "overlays", "seed")
    if args.limit is not None:
        check_at_least(args, 1, "limit")
    if args.offload and not args.shard:
        raise UserError("--offload needs --shard, which shards the weights")
    if args.shard and ":" in args.device:
        raise UserError(f"--device {args.device} does not go with --shard; choose the GPU by CUDA_VISIBLE_DEVICES")
    return args


def decoding_of(args: EvalArgs) -> Decoding:
    """How the model decodes what it writes.

    Raises:
        UserError: a value cannot be.
    """
    try:
        return Decoding(args.max_new_tokens, args.temperature, args.top_p, args.beams)
    except ValueError as error:
        raise UserError(f"--max-new-tokens, --temperature, --top-p or --beams: {error}") from error
