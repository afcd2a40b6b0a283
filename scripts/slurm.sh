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

# set_launch FLAGS...: sets $launch to what runs a script with these flags: Python, or torchrun with
# a worker a GPU, on every node. A search is one process, which starts its trials itself.
set_launch() {
    local nodes=${SLURM_JOB_NUM_NODES:-1} gpus head
    gpus=$(granted_gpus)
    if [[ " $* " == *" --hpo"* ]]; then
        if ((nodes > 1)); then
            fail "A search is one process: submit it with --nodes=1. Its trials spread over more" \
                "machines if Ray runs there already: see --ray_address."
        fi
        gpus=1
    fi
    if ((nodes == 1 && gpus <= 1)); then
        launch=("$python" -u)
        return
    fi
    # The time that SLURM leaves to save in, less a little: torchrun's own limit is half a minute.
    launch=("$python" -u -m torch.distributed.run --shutdown_timeout 110
        --nproc_per_node "$((gpus > 0 ? gpus : 1))")
    if ((nodes == 1)); then
        launch+=(--standalone)
        return
    fi
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    head=${head%%$'\n'*} # not `| head`, which may end scontrol by SIGPIPE and so the job
    launch=(srun --nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1
        --cpus-per-task "${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1
        "${launch[@]}" --nnodes "$nodes" --rdzv_backend c10d
        --rdzv_id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
        --rdzv_endpoint "$head:$((20000 + SLURM_JOB_ID % 20000))")
}

# run_job SAVED COMMAND...: run the command; its exit status. At SLURM's early SIGUSR1 the command
# is told to save, and the job then goes back to the queue. At its time limit it does so only if the
# job has gained something, or it would go round for ever: a checkpoint, or the metrics of an epoch
# or a whole run, in a path that starts with SAVED.
run_job() {
    local saved=$1 child status marker asked_to_stop="" trapped
    shift
    marker=$(mktemp)
    # SIGTERM, as srun and torchrun pass that on to their workers, but not SIGUSR1.
    trap 'trapped=yes asked_to_stop=USR1; kill -TERM "$child" || true' USR1
    trap 'trapped=yes asked_to_stop=${asked_to_stop:-TERM}; kill -TERM "$child" || true' TERM
    "$@" &
    child=$!
    if [[ -n ${early_signal:-} ]]; then kill -USR1 $$; fi
    while :; do
        trapped="" status=0
        wait "$child" || status=$?
        # A trap ends `wait` with 128 + the signal: the child's own status is yet to come.
        if [[ -z $trapped ]] || ((status <= 128)); then break; fi
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
    if ! is_far_from_limit && ! has_gained "$saved" "$marker"; then
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

# Then the signal came from a preemption.
is_far_from_limit() {
    ((${SLURM_JOB_END_TIME:-0} - $(date +%s) > 600))
}

has_gained() {
    local found
    found=$(find "$(dirname "$1.")" -path "$1*" -newer "$2" \
        \( -name '*.pt' -o -name 'metrics*.json*' \) -print -quit 2>/dev/null)
    [[ -n $found ]]
}
