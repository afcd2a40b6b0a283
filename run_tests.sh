#!/usr/bin/env bash
# Run the tests offline, on up to eight cores. The first call installs what they need into .venv.
#   bash run_tests.sh                            # all tests but the slow ones
#   bash run_tests.sh -m slow                    # the slow ones
#   bash run_tests.sh --cov=.                    # and which lines no test reaches
#   bash run_tests.sh tests/test_tasks.py -k sst # pytest's own arguments
set -euo pipefail

repository=$(dirname "$(readlink -f "$0")")
# sbatch runs a copy of this file, far from the repository.
[[ -f $repository/scripts/environment.sh ]] || repository=${SLURM_SUBMIT_DIR:-$repository}
cd "$repository"
source ./scripts/environment.sh

find_environment tests

export HF_HUB_OFFLINE=1 # a test that needs the network is a bug
# Each process takes a part of the files in their order, then a part of what another has left.
exec "$python" -m pytest -n auto --maxprocesses 8 --dist worksteal "$@"
