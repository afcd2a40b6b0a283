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
# Train, in an environment that is made on the first run.
#   bash run_train.sh --epochs 3                       # train_multitask.py
#   bash run_train.sh train_multitask_pal.py --use_pal # another script
#   sbatch --time=01:00:00 run_train.sh --epochs 3     # on SLURM, from the repository
# A job saves before its time limit, goes back to the queue and on from there until it is done.
set -euo pipefail

repository=$(dirname "$(readlink -f "$0")")
# sbatch runs a copy of this file, far from the repository.
[[ -f $repository/scripts/environment.sh ]] || repository=${SLURM_SUBMIT_DIR:-$repository}
cd "$repository"
source ./scripts/environment.sh
source ./scripts/slurm.sh
mkdir -p slurm_files # sbatch does not make the folder of --output

script=train_multitask.py
if [[ ${1:-} == *.py ]]; then
    script=${1#./}
    shift
fi
[[ -f $script ]] || fail "run_train.sh: there is no script $script in $PWD"
if [[ -n ${SLURM_JOB_ID:-} && $script != */* && " $* " != *" --use_gpu "* ]] && (($(granted_gpus) > 0)); then
    set -- --use_gpu "$@"
fi

if ! is_batch_job; then
    find_environment
    exec "$python" -u "$script" "$@"
fi

trap 'early_signal=yes' USR1 # until run_job has a command to pass it on to
find_environment node
if [[ $script != train_multitask*.py ]]; then # a benchmark, say: no run to go on with
    exec "$python" -u "$script" "$@"
fi
is_resumed=""
if [[ " $* " =~ " "--(hpo_)?resume[=\ ] ]]; then is_resumed=yes; fi
if [[ -z $is_resumed ]]; then
    set -- --run_name "job-$SLURM_JOB_ID" "$@" # a --run_name of the user's comes later, and counts
fi
run_dir=$("$python" -m scripts.slurm_job run_dir "$script" "$@")
saved=$("$python" -m scripts.slurm_job saved "$script" "$@")
if ((${SLURM_RESTART_COUNT:-0} == 0)); then
    echo "host: $HOSTNAME"
    "$python" -m scripts.slurm_job header "$script" "$@"
else
    echo "restart $SLURM_RESTART_COUNT on $HOSTNAME"
fi
if ((${SLURM_RESTART_COUNT:-0} > 0)) && [[ -z $is_resumed ]]; then # the user's own words go on too
    again=()
    if [[ " $* " == *" --use_gpu "* ]]; then again=(--use_gpu); fi
    if [[ -f $run_dir/args.json ]]; then
        set -- --resume "$run_dir" "${again[@]}"
    elif [[ -f $run_dir/search.json ]]; then
        set -- --hpo_resume "$run_dir" "${again[@]}"
    fi
fi
set_launch "$@"
run_job "$saved/" "${launch[@]}" "$script" "$@"
