# Sourced by train.sh and eval.sh after environment.sh: what they read from the arguments that they
# pass on, the data that go with a name, and how they run a script.

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

# launch ARGUMENT...: `python -m utils.launch`; the shell script ends with its status when it fails.
launch() {
    local status=0
    "$python" -m utils.launch "$@" || status=$?
    # 1 and 2 have said what is wrong themselves; a process that was killed has not.
    if [ $status -gt 2 ]; then say "error: a process ended with status $status"; fi
    [ $status -eq 0 ] || exit $status
}
