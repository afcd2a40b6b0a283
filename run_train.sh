#!/usr/bin/env bash
#SBATCH --job-name=multitask-bert
#SBATCH --partition=gpu
#SBATCH --gres=gpu:A100:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --output=slurm_files/%x-%j.out
#
# Train, in an environment that is made on the first run.
#   bash run_train.sh --epochs 3                       # train_multitask.py
#   bash run_train.sh train_multitask_pal.py --use_pal # another script
#   sbatch --time=01:00:00 run_train.sh --epochs 3     # on SLURM, from the repository
set -euo pipefail

repository=$(dirname "$(readlink -f "$0")")
# sbatch runs a copy of this file, far from the repository.
[[ -f $repository/environment.sh ]] || repository=${SLURM_SUBMIT_DIR:-$repository}
cd "$repository"
source ./environment.sh
mkdir -p slurm_files # sbatch does not make the folder of --output

gpu_granted() {
    # Which of these SLURM sets depends on its version and on how the GPU was asked for.
    [[ -n ${SLURM_JOB_GPUS:-} || ${SLURM_GPUS_ON_NODE:-0} != 0 ||
        ${CUDA_VISIBLE_DEVICES:-NoDevFiles} != @(NoDevFiles|-1) ]]
}

script=train_multitask.py
if [[ ${1:-} == *.py ]]; then
    script=$1
    shift
fi
[[ -f $script ]] || fail "run_train.sh: there is no script $script in $PWD"

if [[ -n ${SLURM_JOB_ID:-} ]]; then
    if gpu_granted && [[ " $* " != *" --use_gpu "* ]]; then
        set -- --use_gpu "$@"
    fi
    echo "host: $HOSTNAME"
    echo "revision: $(git describe --always --dirty 2>/dev/null || echo unknown)"
    echo "command: python -u $script $*"
fi

find_environment
# exec: SLURM's early SIGUSR1 goes to the batch process, which must then be Python.
exec "$python" -u "$script" "$@"
