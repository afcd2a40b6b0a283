# shellcheck shell=bash
# find_environment PURPOSE sets $python to an interpreter that has the pinned packages. It takes the
# active conda environment if that has them, otherwise .venv, which it makes or completes first.
#   find_environment training   # what requirements.txt lists
#   find_environment tests      # all that requirements-dev.txt lists, by -r the two other files too
#   find_environment job        # as for training, but installs nothing: a node may have no network
# Sourced by scripts whose working directory is the repository.

fail() {
    echo "$*" >&2
    exit 1
}

find_environment() {
    local purpose=$1 files=(requirements.txt) key_packages=(torch)
    if [[ $purpose == tests ]]; then
        files+=(requirements-extras.txt requirements-dev.txt)
        key_packages+=(pytest)
    fi
    if conda_has "${key_packages[@]}"; then
        python=$CONDA_PREFIX/bin/python
        return
    fi
    if ! is_complete "${files[@]}"; then
        if [[ $purpose == job ]]; then
            fail "No environment for this job: activate the conda environment before sbatch, or" \
                "make .venv on the login node with: bash run_train.sh --help"
        fi
        install_files "${files[@]}" 9>>.venv.lock # the lock is outside .venv, which gets cleared
    fi
    # shellcheck disable=SC2034 # read by the script that sources this file
    python=$PWD/.venv/bin/python
}

# Whether the active conda environment has these packages in the versions that we pin.
conda_has() {
    [[ -n ${CONDA_PREFIX:-} ]] && "$CONDA_PREFIX/bin/python" -c '
import sys
from importlib.metadata import version
pins = {line for name in ("", "-dev") for line in open(f"requirements{name}.txt").read().split()}
for name in sys.argv[1:]:
    if name + "==" + version(name).partition("+")[0] not in pins:  # torch 2.0.0+cpu is torch 2.0.0
        sys.exit(1)
' "$@" 2>/dev/null
}

# Whether .venv has the contents of these files. .venv/complete is written after the last step of an
# installation and removed before the first, so a half-made .venv is never taken for a complete one.
is_complete() {
    local stamp
    stamp=$(stamp_of "$@") || return
    [[ -n $stamp && -f .venv/complete && $(<.venv/complete) == "$stamp"* ]]
}

# Print one line per file: the version of .venv's Python, and the file's digest. Fails if .venv has
# no working Python.
stamp_of() {
    .venv/bin/python -c '
import hashlib, sys
for name in sys.argv[1:]:
    digest = hashlib.sha256(open(name, "rb").read()).hexdigest()
    print(*sys.version_info[:2], digest, name)
' "$@" 2>/dev/null
}

# install_files FILE...: let pip install the last of these files, which names the others by -r. A
# .venv that is complete for training is kept, and the rest is added. Any other .venv is made from scratch,
# so that nothing of an old or half-made one remains; pip's cache makes this cheap.
install_files() {
    local base is_kept=""
    if command -v flock >/dev/null && ! flock -n 9; then
        echo "Waiting for another script that is installing into .venv." >&2
        flock 9 || true # some cluster file systems have no locks
    fi
    if is_complete "$@"; then return; fi # the other script has installed it
    if is_complete requirements.txt; then
        is_kept=yes
        echo "Adding ${*: -1} to .venv; this takes minutes the first time." >&2
        rm -f .venv/complete
    else
        base=$(find_base_python)
        echo "Making .venv from ${*: -1} with $base; this takes minutes the first time." >&2
        make_empty_venv "$base"
    fi
    if ! pip_install -r "${*: -1}" >&2; then
        if [[ -n $is_kept ]] && is_whole requirements.txt; then
            stamp_of requirements.txt >.venv/complete
        fi
        fail "Could not install ${*: -1}: see pip's message above, then run again" \
            "(on a cluster from a login node, which has a network)."
    fi
    stamp_of "$@" >.venv/complete
}

make_empty_venv() {
    rm -f .venv/complete
    # --clear rather than rm, as .venv may be a link to a larger disk.
    "$1" -m venv --clear .venv || {
        rm -rf .venv
        fail "Could not make .venv: see the message above."
    }
}

pip_install() {
    .venv/bin/python -m pip install --disable-pip-version-check "$@"
}

# Whether all of a file is still installed after a failed installation. Without any source of
# packages, pip succeeds only if nothing is missing.
is_whole() {
    PIP_CONFIG_FILE=/dev/null pip_install --isolated --no-index --dry-run -r "$1" &>/dev/null
}

# Print the interpreter to make .venv with. It is never that of an activated .venv, which is about
# to be cleared.
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
