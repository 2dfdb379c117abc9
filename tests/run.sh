#!/usr/bin/env bash
# Runs the tests: offline, without a GPU.
#
#   bash tests/run.sh [arguments of pytest]
#
# Two at a time, a file's tests in one process and the longest files first (tests/conftest.py); -n 0 runs one
# after the other, as a debugger wants it.
# The environment is found or made as train.sh does it. CUDA_VISIBLE_DEVICES=0 shows them a GPU.
source "$(dirname "${BASH_SOURCE[0]}")/../utils/cli/environment.sh"

export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}

exec "$python" -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder "$@"
