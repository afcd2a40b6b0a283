# shellcheck shell=bash
# What run_train.sh and run_experiments.sh do as SLURM jobs. Their working directory is the
# repository, and $python the interpreter.

# sbatch runs a copy of the script, which it calls slurm_script. In an interactive shell on a node
# the scripts are themselves, and nothing is requeued.
is_batch_job() {
    [[ ${0##*/} == slurm_script ]]
}

# Number of GPUs that SLURM has granted on this node. Which of these variables it sets depends on
# its version and on how the GPUs were asked for.
granted_gpus() {
    local devices=${CUDA_VISIBLE_DEVICES:-${SLURM_JOB_GPUS:-}} list
    if ((${SLURM_GPUS_ON_NODE:-0} > 0)); then
        echo "$SLURM_GPUS_ON_NODE"
    elif [[ -z $devices || $devices == @(NoDevFiles|-1) ]]; then
        echo 0
    else
        IFS=, read -ra list <<<"$devices"
        echo "${#list[@]}"
    fi
}

# Sets $launch to what runs a script: Python, or torchrun with a worker a GPU, on every node.
set_launch() {
    local nodes=${SLURM_JOB_NUM_NODES:-1} gpus head
    gpus=$(granted_gpus)
    if ((nodes == 1 && gpus <= 1)); then
        launch=("$python" -u)
        return
    fi
    launch=("$python" -u -m torch.distributed.run --nproc_per_node "$((gpus > 0 ? gpus : 1))")
    if ((nodes == 1)); then
        launch+=(--standalone)
        return
    fi
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    launch=(srun --nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1
        --cpus-per-task "${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1
        "${launch[@]}" --nnodes "$nodes" --rdzv_backend c10d
        --rdzv_id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
        --rdzv_endpoint "$head:$((20000 + SLURM_JOB_ID % 20000))")
}

# run_job SAVED COMMAND...: run the command; its exit status. At SLURM's early SIGUSR1 the command
# is told to save, and the job then goes back to the queue, unless no checkpoint in the directory
# SAVED is newer than the job: then nothing was gained, and it would go round for ever.
run_job() {
    local saved=$1 child status marker asked_to_stop=""
    shift
    marker=$(mktemp)
    # SIGTERM, as srun and torchrun pass that on to their workers, but not SIGUSR1.
    trap 'asked_to_stop=USR1; kill -TERM "$child"' USR1
    trap 'asked_to_stop=${asked_to_stop:-TERM}; kill -TERM "$child"' TERM
    "$@" &
    child=$!
    while :; do # a trap ends `wait`, not the child
        status=0
        wait "$child" || status=$?
        kill -0 "$child" 2>/dev/null || break
    done
    trap - USR1 TERM
    if [[ $asked_to_stop == USR1 && $status != 0 ]]; then
        requeue "$saved" "$marker"
    fi
    rm -f "$marker"
    return "$status"
}

requeue() {
    local saved=$1 marker=$2 job=$SLURM_JOB_ID
    if [[ -z $(find "$saved" -name '*.pt' -newer "$marker" -print -quit 2>/dev/null) ]]; then
        echo "Nothing was saved before the time limit, so the job is not requeued: give it more" \
            "--time, or the run a smaller --save_every." >&2
        return
    fi
    if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
        job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    fi
    echo "Requeued after the early signal of the time limit or of a preemption." >&2
    scontrol requeue "$job"
}
