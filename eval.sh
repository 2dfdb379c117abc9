#!/usr/bin/env bash
# Evaluates a checkpoint.
#
#   bash eval.sh [NAME] [arguments of eval.py]
#
#   bash eval.sh mini                   the trained weights in PixDLM/mini, on the mini set (drawn if absent)
#   bash eval.sh NAME                   the best checkpoint of runs/NAME, on data/DRSeg
#   bash eval.sh --model FOLDER --data FOLDER --split test --out FOLDER
#   bash eval.sh NAME --controls        and with other questions, other pictures and no question
#   bash eval.sh --model FOLDER --benchmarks drseg,reasonseg,refcoco     on several data sets, with one table
#   bash eval.sh --help                 what eval.py takes
#
# Arguments after NAME add to and replace what NAME stands for, e.g. `bash eval.sh mini --overlays 8`.
# NPROC and PIXDLM_PYTHON as in train.sh. Relative paths count from the checkout.
set -u
source "$(dirname "${BASH_SOURCE[0]}")/utils/cli/environment.sh"
source utils/cli/arguments.sh

name=
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then name=$1; shift; fi
if wants_help "$@"; then exec "$python" eval.py --help; fi

data=$(value_of data "$@") || data=${name:+$(default_data "$name")}
case $name in
    "") defaults=() ;;
    mini)
        defaults=(--model PixDLM/mini --data "$data" --split test --out runs/mini-released/eval)
        if value_of benchmarks "$@" >/dev/null; then
            # by a name of its own: numbers on drawn scenes do not belong beside those published on DRSeg
            defaults=(--model PixDLM/mini --data "mini=drseg:$mini_data" --out runs/mini-released/benchmarks)
        fi
        ;;
    *)
        [ -d "runs/$name/best" ] || value_of model "$@" >/dev/null ||
            die "$name: there is no runs/$name/best; name mini, a run that has validated, or a folder by --model"
        defaults=(--model "runs/$name/best" --data "$data" --split test --out "runs/$name/eval")
        if value_of benchmarks "$@" >/dev/null; then
            defaults=(--model "runs/$name/best" --out "runs/$name/benchmarks")
        fi
        ;;
esac
[ -n "$data" ] || value_of benchmarks "$@" >/dev/null ||
    die "name the data set: --data FOLDER, e.g. --data data/DRSeg or --data $mini_data"
if [ "$data" = "$mini_data" ]; then draw_mini_data; fi

launch eval.py ${defaults[@]+"${defaults[@]}"} "$@"
