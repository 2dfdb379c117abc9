"""Merge a model of the real size: `python tests/large_merge.py FOLDER` (30 GB of disk, 18 GB of memory).

Writes `native` with adapters and random weights, shard by shard, merges it by `merge_lora.py` and
prints how much memory that took. Not part of the suite.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import sentencepiece  # noqa: E402
import torch  # noqa: E402
from accelerate import init_empty_weights  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tqdm import tqdm  # noqa: E402

from model.lora import lora_settings  # noqa: E402
from model.pixdlm import PixDLMForCausalLM  # noqa: E402
from model.presets import LLAMA_VOCABULARY, native_config  # noqa: E402

SHARD_BYTES = 1 << 30
LIMIT = 1.3  # times the model's size


def build(folder: Path) -> int:
    """The checkpoint; gives the bytes of what will be merged."""
    folder.mkdir(parents=True)
    config = native_config()
    config.lora = lora_settings(8, 16.0, 0.0, ["q_proj", "v_proj"])
    with init_empty_weights(include_buffers=False):
        model = PixDLMForCausalLM(config)
    config.save_pretrained(folder)
    state = model.state_dict()
    places, shard, size, total = {}, {}, 0, 0
    for name, tensor in tqdm(state.items(), desc="writing", unit="tensor"):
        kept = tensor.is_meta
        shard[name] = torch.randn(tensor.shape, dtype=torch.bfloat16).mul_(0.02) if kept else tensor.contiguous()
        size += shard[name].nbytes
        total += 0 if "lora_" in name else shard[name].nbytes
        if size > SHARD_BYTES or name == list(state)[-1]:
            file = f"model-{len(set(places.values()))}.safetensors"
            save_file(shard, folder / file)
            places |= dict.fromkeys(shard, file)
            shard, size = {}, 0
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    write_tokenizer(folder)
    return total


def write_tokenizer(folder: Path) -> None:
    """A SentencePiece model with as many pieces as Llama's, each a made-up word."""
    words = (f"w{number}" for number in range(4 * LLAMA_VOCABULARY))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=words,
        model_prefix=str(folder / "tokenizer"),
        vocab_size=LLAMA_VOCABULARY,
        model_type="word",
        hard_vocab_limit=True,
        minloglevel=2,
    )


def main() -> int:
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    size = build(folder / "checkpoint")
    command = [sys.executable, str(CHECKOUT / "merge_lora.py"), str(folder / "checkpoint"), str(folder / "merged")]
    status = subprocess.run(command).returncode
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"model {size / 2**30:.2f} GiB in bf16; merging took {peak / 2**30:.2f} GiB, {peak / size:.2f} times that")
    return status or int(peak > LIMIT * size)


if __name__ == "__main__":
    sys.exit(main())
