#!/usr/bin/env bash
# Runs the tests: offline, without a GPU.
#
#   bash tests/run.sh [--all] [arguments of pytest]
#
# Tests that take minutes are left out unless --all is given, as continuous integration does, or files are named.
# Two at a time, a file's tests in one process and the longest files first (tests/conftest.py); -n 0 runs one
# after the other, as a debugger wants it.
# The environment is found or made as train.sh does it. CUDA_VISIBLE_DEVICES=0 shows them a GPU.
source "$(dirname "${BASH_SOURCE[0]}")/../utils/cli/environment.sh"

export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}

select=(-m "not slow")
if [ "${1-}" = --all ]; then
    select=()
    shift
fi
for argument in "$@"; do
    if [ -e "${argument%%::*}" ]; then select=(); fi
done

exec "$python" -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder ${select[@]+"${select[@]}"} "$@"
