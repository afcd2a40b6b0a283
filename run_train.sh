#!/usr/bin/env bash
#SBATCH --job-name=multitask-bert
#SBATCH --partition=gpu
#SBATCH --gres=gpu:A100:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm_files/%x-%j.out
#
# Train. The first call installs what training needs into .venv.
#   bash run_train.sh --epochs 3                       # train_multitask.py
#   bash run_train.sh train_multitask_pal.py --use_pal # another script
#   sbatch --time=01:00:00 run_train.sh --epochs 3     # on SLURM, from the repository
# A job that reaches its time limit saves, goes back into the queue, and resumes from there.
set -euo pipefail

repository=$(dirname "$(readlink -f "$0")")
# sbatch runs a copy of this file, far from the repository.
[[ -f $repository/scripts/environment.sh ]] || repository=${SLURM_SUBMIT_DIR:-$repository}
cd "$repository"
source ./scripts/environment.sh
source ./scripts/slurm.sh
mkdir -p slurm_files # sbatch does not create the folder of --output

script=train_multitask.py
if [[ ${1:-} == *.py ]]; then
    script=${1#./}
    shift
fi
[[ -f $script ]] || fail "run_train.sh: there is no script $script in $PWD"
if [[ -n ${SLURM_JOB_ID:-} && $script != */* && " $* " != *" --use_gpu "* ]] &&
    (($(granted_gpus) > 0)); then
    set -- --use_gpu "$@"
fi

if ! is_batch_job; then
    find_environment training
    exec "$python" -u "$script" "$@"
fi

trap 'early_signal=yes' USR1 # until run_job has a command to pass the signal on to
find_environment job
if [[ $script != train_multitask*.py ]]; then # a benchmark, for example: no run to resume
    exec "$python" -u "$script" "$@"
fi
is_resumed=""
if [[ " $* " =~ " "--(hpo_)?resume[=\ ] ]]; then is_resumed=yes; fi
if [[ -z $is_resumed ]]; then
    set -- --run_name "job-$SLURM_JOB_ID" "$@" # a --run_name in "$@" comes later and wins
fi
described=$("$python" -m scripts.slurm_job "$script" "$@")
mapfile -t lines <<<"$described" # the directory of the checkpoints, then the head
saved=${lines[0]}
if ((${SLURM_RESTART_COUNT:-0} == 0)); then
    printf '%s\n' "host: $HOSTNAME" "${lines[@]:1}"
else
    echo "restart $SLURM_RESTART_COUNT on $HOSTNAME"
    described=$("$python" -m scripts.slurm_job resume "$script" "$@")
    mapfile -t flags <<<"$described"
    set -- "${flags[@]}"
fi
set_launch "$@"
run_job "$saved/" "${launch[@]}" "$script" "$@"
