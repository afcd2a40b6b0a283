#!/usr/bin/env bash
#SBATCH --job-name=experiments
#SBATCH --partition=gpu
#SBATCH --gres=gpu:A100:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm_files/%x-%A_%a.out
#
# Submit the rows of the results table as an array of SLURM jobs, one job per row.
#   bash run_experiments.sh --seeds 1 2 3 --data_dir data              # every row, two epochs each
#   bash run_experiments.sh joint pcgrad --seeds 1 --data_dir data     # these rows
#   SBATCH_TIMELIMIT=01:00:00 SBATCH_PARTITION=short bash run_experiments.sh ...
# The arguments are those of experiments/run.py. Finished runs are not repeated. A row that averages
# another row's runs needs them finished: it is submitted only if it is named, once they are.
set -euo pipefail

repository=$(dirname "$(readlink -f "$0")")
[[ -f $repository/scripts/environment.sh ]] || repository=${SLURM_SUBMIT_DIR:-$repository}
cd "$repository"
source ./scripts/environment.sh
source ./scripts/slurm.sh

rows=()
while [[ $# -gt 0 && $1 != -* ]]; do
    rows+=("$1")
    shift
done

if [[ " $* " == *" --work_dir"* ]]; then
    fail "run_experiments.sh: --work_dir is always runs/experiments here; drop it"
fi
for row in "${rows[@]}"; do
    if [[ ! -f experiments/rows/$row.txt ]]; then
        fail "run_experiments.sh: there is no row $(printf %q "$row"); see experiments/rows/*.txt"
    fi
done
if ! is_batch_job; then
    command -v sbatch >/dev/null ||
        fail "run_experiments.sh: there is no sbatch here; on one machine: python -m experiments.run"
    find_environment training # here, as a node may have no network
    if ((${#rows[@]} == 0)); then
        mapfile -t rows < <(cd experiments/rows && grep -LE "^# (not run by default|average of):" -- *.txt)
        rows=("${rows[@]%.txt}")
    fi
    mkdir -p slurm_files
    # SBATCH_OPTIONS: flags of sbatch for which it reads no environment variable.
    # shellcheck disable=SC2086
    exec sbatch --array="0-$((${#rows[@]} - 1))" ${SBATCH_OPTIONS:-} run_experiments.sh \
        "${rows[@]}" "$@"
fi

trap 'early_signal=yes' USR1 # until run_job has a command to pass the signal on to
find_environment job
if (($(granted_gpus) > 0)); then
    set -- "$@" --use_gpu
fi
row=${rows[$SLURM_ARRAY_TASK_ID]}
echo "host: $HOSTNAME, row: $row, restart ${SLURM_RESTART_COUNT:-0}"
"$python" -m scripts.slurm_job versions
echo "command: python -m experiments.run $row $*"
run_job "runs/experiments/$row-seed" "$python" -u -m experiments.run "$row" "$@"
