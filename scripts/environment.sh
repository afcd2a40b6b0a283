# shellcheck shell=bash
# find_environment sets $python to an interpreter that has what requirements.txt pins: the active
# conda environment's if it has our torch, otherwise .venv's, made first where needed.
# `find_environment node` installs nothing: a job on a cluster's node has no network for it.
# Sourced by scripts whose working directory is the repository.

fail() {
    echo "$*" >&2
    exit 1
}

find_environment() {
    if conda_has_our_torch; then
        python=$CONDA_PREFIX/bin/python
    else
        if [[ ${1:-} == node ]] && ! up_to_date; then
            fail "No environment for this job: activate the conda environment before sbatch, or" \
                "make .venv on the login node with: bash run_train.sh --help"
        fi
        up_to_date || make_venv 9>>.venv.lock # not in .venv, which gets cleared
        # shellcheck disable=SC2034 # for the script that sources this file
        python=$PWD/.venv/bin/python
    fi
}

conda_has_our_torch() {
    [[ -n ${CONDA_PREFIX:-} ]] && "$CONDA_PREFIX/bin/python" -c '
from importlib.metadata import version
import sys
pins = open("requirements.txt").read().split()
sys.exit("torch==" + version("torch").partition("+")[0] not in pins)
' 2>/dev/null
}

# .venv/complete is written after the last step of an installation: without it, .venv is half-made.
up_to_date() {
    local stamp
    stamp=$(venv_stamp) && [[ -f .venv/complete && $(<.venv/complete) == "$stamp" ]]
}

# What .venv is made from; fails if its Python is missing or broken.
venv_stamp() {
    .venv/bin/python -c '
import hashlib, sys
print(*sys.version_info[:2], hashlib.sha256(open("requirements.txt", "rb").read()).hexdigest())
' 2>/dev/null
}

# Always anew, so that nothing lingers of an old or half-made one; pip's cache makes this cheap.
make_venv() {
    local base
    if command -v flock >/dev/null && ! flock -n 9; then
        echo "Waiting for another script that is making .venv." >&2
        flock 9 || true # some cluster file systems have no locks
    fi
    if up_to_date; then return; fi # the other script made it
    base=$(find_base_python)
    echo "Making .venv from requirements.txt with $base; this takes minutes the first time." >&2
    rm -f .venv/complete
    # --clear rather than rm, as .venv may be a link to a larger disk.
    "$base" -m venv --clear .venv || {
        rm -rf .venv
        fail "Could not make .venv: see the message above."
    }
    .venv/bin/python -m pip install --disable-pip-version-check -r requirements.txt >&2 ||
        fail "Could not install requirements.txt: see pip's message above, then run again" \
            "(on a cluster from a login node, which has a network)."
    venv_stamp >.venv/complete
}

# The interpreter behind a name, never that of an activated .venv: this is the one about to be cleared.
find_base_python() {
    local candidate answer tried=""
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        if answer=$("$candidate" -c '
import sys
version = "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 11):
    print("is " + version)
    sys.exit(1)
try:
    import ensurepip, venv
except ImportError:
    print("has no venv module (Debian, Ubuntu: apt-get install python%s-venv)" % version)
    sys.exit(1)
print(sys._base_executable)
' 2>/dev/null); then
            echo "$answer"
            return
        fi
        tried+=${answer:+", but $candidate $answer"}
    done
    fail "Python 3.11 or newer with its venv module is needed${tried:-, but there is no python3}." \
        "Install it, or name one: PYTHON=/path/to/python3"
}
