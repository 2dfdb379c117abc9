#!/usr/bin/env bash
# Trains a named configuration, then evaluates its best checkpoint on the test split, once as it is and
# as controls with shuffled questions, with swapped images and with a blank question.
#
#   bash train.sh [release|native|mini] [arguments of train.py]     default: native
#
#   bash train.sh mini                  needs no GPU, no data and no weights: draws its own scenes
#   bash train.sh                       native, on data/DRSeg, on every GPU of this node
#   bash train.sh mini --data FOLDER    another data set in DRSeg's layout
#   bash train.sh --train drseg:4,refcoco:2 --data drseg=FOLDER,refcoco=FOLDER     a mixture, evaluated on each
#   bash train.sh --help                what train.py takes
#
# NPROC=N           processes on this node (default: the GPUs found; without one, for mini a process a core)
# HOSTFILE=FILE     trains on several nodes: DeepSpeed's hostfile, `worker-1 slots=8` a line; the
#                   checkout must be at the same path on all of them, and this must be started on the
#                   first of them or on a disk that they share: the evaluation here reads what it wrote
# PIXDLM_PYTHON=…   the Python to use instead of the active one
# PIXDLM_FLASH_ATTENTION=0   not to use flash-attn where it is installed
#
# A run writes runs/NAME/: last/, best/, TensorBoard files, a log and eval/.
# Relative paths count from the checkout.
set -u
source "$(dirname "${BASH_SOURCE[0]}")/utils/cli/environment.sh"
source utils/cli/arguments.sh

name=native
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then name=$1; shift; fi
if wants_help "$@"; then exec "$python" train.py --help; fi

mixture=$(value_of train "$@") || mixture=
data=$(value_of data "$@") || {
    [ -z "$mixture" ] || die "--train $mixture: name the folders, --data NAME=FOLDER,NAME=FOLDER or a YAML file of them"
    data=$(default_data "$name")
}
run=$(value_of run-dir "$@") || run=runs/$name
if [ "$data" = "$mini_data" ]; then draw_mini_data
elif [ -d "$data/labels" ] && [ ! -f "$data/labels/DRSeg_test.json" ]; then
    # checked now, not after days of training
    die "$data/labels/DRSeg_test.json: no such split, and this ends with its evaluation; add it, or run train.py alone"
fi

launch ${HOSTFILE:+--hostfile "$HOSTFILE"} train.py --config "$name" --data "$data" --run-dir "$run" "$@"

# Options of data loading apply to the evaluation too.
reading=()
for option in dataset polygons orientation workers; do
    if [ "$option" = dataset ] && [ -n "$mixture" ]; then continue; fi
    if value=$(value_of "$option" "$@"); then reading+=("--$option" "$value"); fi
done
if has_flag skip-bad-records "$@"; then reading+=(--skip-bad-records); fi
# A model that was sharded for training is sharded for evaluation too, which can neither write nor ask again.
if [ "$(value_of zero-stage "$@")" = 3 ]; then
    reading+=(--shard --reasoning none)
    say "No controls, and no words of the model's own: the weights stay sharded over the processes (--zero-stage 3)."
else
    reading+=(--controls)
fi
if [ "$(value_of offload "$@")" = all ]; then reading+=(--offload); fi

if [ -n "$mixture" ]; then
    # the names of `NAME@SPLIT:SHARE,…`
    benchmarks=$(printf '%s' "$mixture" | tr ',' '\n' | sed 's/[:@].*//; s/ //g' | sort -u | paste -sd, -)
    launch eval.py --model "$run/best" --data "$data" --benchmarks "$benchmarks" --out "$run/eval" "${reading[@]}"
else
    launch eval.py --model "$run/best" --data "$data" --split test --out "$run/eval" "${reading[@]}"
fi
