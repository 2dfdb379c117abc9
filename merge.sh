#!/usr/bin/env bash
# A checkpoint to one folder that loads anywhere, adapters merged.
#
#   bash merge.sh CHECKPOINT OUT [arguments of merge_lora.py]
#
#   bash merge.sh runs/native/best PixDLM/mine           safetensors, all parts, bf16
#   bash merge.sh runs/native/best OUT --format published
#   bash merge.sh --help                                 what merge_lora.py takes
#
# PIXDLM_PYTHON as in train.sh. Relative paths count from the checkout.
set -u
source "$(dirname "${BASH_SOURCE[0]}")/utils/cli/environment.sh"

exec "$python" merge_lora.py "$@"
