# Sourced by train.sh and eval.sh after environment.sh: reads single options from the arguments that they
# pass on, finds the data set of a configuration, and launches a script.

mini_data=data/DRSeg-mini

# value_of NAME ARGUMENT...: prints the value of the last --NAME among the arguments; fails without one.
value_of() {
    local name=$1 found=1 value=
    shift
    while [ $# -gt 0 ]; do
        case ${1//_/-} in
            "--$name") if [ $# -gt 1 ]; then value=$2 found=0; fi ;;
            "--$name="*) value=${1#*=} found=0 ;;
        esac
        shift
    done
    printf '%s' "$value"
    return $found
}

# has_flag NAME ARGUMENT...: whether --NAME is among the arguments and not switched off.
has_flag() {
    local name=$1 argument
    shift
    case $(value_of "$name" "$@") in [Ff]alse | 0 | no) return 1 ;; esac
    for argument in "$@"; do
        case ${argument//_/-} in "--$name" | "--$name="*) return 0 ;; esac
    done
    return 1
}

wants_help() {
    local argument
    for argument in "$@"; do
        case $argument in -h | --help) return 0 ;; esac
    done
    return 1
}

# default_data NAME: the data set that the configuration NAME is trained and evaluated on.
default_data() {
    if [ "$1" = mini ]; then printf '%s' "$mini_data"; else printf data/DRSeg; fi
}

draw_mini_data() {
    "$python" -m utils.mini_drseg --out "$mini_data" --if-missing || exit $?
}

# launch ARGUMENT...: `python -m utils.cli.launch`; the shell script ends with its status when it fails.
# Signals are passed on: a run saves its state at SIGTERM, which a cluster sends some time before it stops a job,
# and when the terminal closes. In its own process group (set -m) the run receives SIGINT too.
launch() {
    local status=0 child=
    trap '[ -z "$child" ] || kill -TERM -- "-$child" 2>/dev/null' TERM HUP
    trap '[ -z "$child" ] || kill -INT -- "-$child" 2>/dev/null' INT
    set -m
    "$python" -m utils.cli.launch "$@" &
    child=$!
    set +m
    wait "$child" || status=$?
    # a trapped signal ends the wait before the run has ended
    while kill -0 "$child" 2>/dev/null; do wait "$child" || status=$?; done
    trap - TERM HUP INT
    # 1 to 3, 130 and 143 have said what happened themselves; a process that was killed has not.
    case $status in 0 | 1 | 2 | 3 | 130 | 143) ;; *) say "error: a process ended with status $status" ;; esac
    [ $status -eq 0 ] || exit $status
}
