# Sourced by train.sh, eval.sh and tests/run.sh: goes to the checkout and sets `python` to an
# interpreter that has what requirements.txt asks for.
#
# That is the active Python (python3 or python on PATH, or the one that PIXDLM_PYTHON names) when it
# has it already. Else it is .venv in the checkout, made and filled here, and used again next time.
# An environment that is good, and one that is not ours, is never changed.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
cd "$root" || exit 1
venv=$root/.venv
ours=$venv/.made-by-pixdlm # stands first in a .venv that this file made; says "complete" at the end

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 2; }

# python_version PYTHON: prints its version as 3.11; fails where it does not run.
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# supported PYTHON: whether .venv can be made from it.
supported() {
    case $(python_version "$1") in 3.10 | 3.11 | 3.12) "$1" -c 'import venv, ensurepip' 2>/dev/null ;; *) false ;; esac
}

# problems_of PYTHON: prints what it lacks; succeeds where that is nothing.
problems_of() {
    case $(python_version "$1") in
        "" | 2.* | 3.?) echo "Python $(python_version "$1") is too old"; return 1 ;;
    esac
    "$1" "$root/utils/cli/check_environment.py" "$root/requirements.txt" 2>/dev/null
}

# find_active: sets `active`; "" where there is no Python at all.
find_active() {
    local candidate
    active=
    if [ -n "${PIXDLM_PYTHON:-}" ]; then
        python_version "$PIXDLM_PYTHON" >/dev/null ||
            die "PIXDLM_PYTHON=$PIXDLM_PYTHON does not run; let it name a Python 3.10 to 3.12, or unset it"
        active=$PIXDLM_PYTHON
        return
    fi
    for candidate in python3 python; do
        if python_version "$candidate" >/dev/null; then active=$candidate; return; fi
    done
}

# find_base: sets `base` to an interpreter that .venv can be made from, the active one if it will do.
find_base() {
    local candidate
    local candidates=("$active")
    [ -n "${PIXDLM_PYTHON:-}" ] || candidates+=(python3.12 python3.11 python3.10)
    for candidate in "${candidates[@]}"; do
        if [ -n "$candidate" ] && supported "$candidate"; then base=$candidate; return; fi
    done
    [ -n "$active" ] || die "no Python found; install Python 3.10 to 3.12, or let PIXDLM_PYTHON name one"
    case $(python_version "$active") in
        3.10 | 3.11 | 3.12)
            die "$active cannot make a virtual environment: its venv or ensurepip module is missing" \
                "(on Debian and Ubuntu: apt install python3-venv)" ;;
        *)
            die "$active is Python $(python_version "$active"); 3.10 to 3.12 is needed." \
                "Let PIXDLM_PYTHON name one, or activate an environment that has requirements.txt" ;;
    esac
}

# fill_venv: installs requirements.txt into .venv; resumes an interrupted installation.
fill_venv() {
    local pip=("$venv/bin/python" -m pip install --no-input --disable-pip-version-check)
    local pair
    pair=$(grep -oE '^torch(vision)?[<>=!~][^ #;]*' requirements.txt)
    # torch first and no build isolation after it: sam2 builds against torch, which would otherwise
    # be fetched a second time for that. sam2's CUDA extension is for video; nothing here needs it.
    # shellcheck disable=SC2086
    PIP_USER=0 "${pip[@]}" setuptools wheel $pair >&2 &&
        PIP_USER=0 SAM2_BUILD_CUDA=0 "${pip[@]}" --no-build-isolation -r requirements.txt >&2
}

# make_venv: makes or completes .venv, or says why not.
make_venv() {
    find_base
    if [ -e "$venv" ] && [ ! -e "$ours" ] && [ -n "$(ls -A "$venv")" ]; then
        die "$venv was not made by this script and lacks what requirements.txt asks for:" \
            "$(problems_of "$venv/bin/python" | head -n 3 | tr '\n' ';')" \
            "install it there yourself, or move that folder away and run this again"
    fi
    [ -z "$active" ] || say "The active Python ($active) does not have what requirements.txt asks for:" \
        "$(problems_of "$active" | tr '\n' ';')"
    say "Installing into $venv (up to 6 GB, some minutes; only this once)"
    mkdir -p "$venv" && echo installing >"$ours" || die "cannot write $venv"
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then # not made yet, or only in part
        find "$venv" -mindepth 1 ! -path "$ours" -delete
        "$base" -m venv "$venv" >&2 || die "$base could not make $venv; see above"
    fi
    fill_venv || die "the installation into $venv did not finish; see above, then run the same command again to go on"
    problems=$(problems_of "$venv/bin/python") ||
        die "$venv is installed, but: $problems; see requirements.txt on the pair of torch and torchvision"
    echo complete >"$ours"
    say "Installed."
}

# venv_is_good: whether .venv can be used as it is. One of ours must have been finished.
venv_is_good() {
    [ -x "$venv/bin/python" ] || return 1
    if [ -e "$ours" ] && [ "$(cat "$ours")" != complete ]; then return 1; fi
    problems_of "$venv/bin/python" >/dev/null
}

# find_python: sets `python`.
find_python() {
    find_active
    # Scripts that call scripts (the tests do) need not look again: the answer is in the environment.
    local key="$root|${PIXDLM_PYTHON:-}|"
    case ${PIXDLM_CHECKED:-} in
        "$key"*) python=${PIXDLM_CHECKED#"$key"}; [ -x "$python" ] && return ;;
    esac
    if [ -n "$active" ] && problems_of "$active" >/dev/null; then
        python=$("$active" -c 'import sys; print(sys.executable)')
    else
        if ! venv_is_good; then
            mkdir -p "$venv" || die "cannot write $venv"
            exec 9<"$venv"
            # One at a time: a second run waits for the first one's installation, then finds it good.
            if command -v flock >/dev/null; then flock 9; fi
            venv_is_good || make_venv
            exec 9<&-
        fi
        python=$venv/bin/python
    fi
    export PIXDLM_CHECKED="$key$python"
}

find_python
# Tools that came with the packages (ninja, for DeepSpeed's compiled parts) are found beside Python.
PATH=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH
export PATH
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
