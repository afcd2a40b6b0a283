# shellcheck shell=bash
# What run_train.sh and run_experiments.sh need when they run as SLURM jobs. Sourced by both, after
# environment.sh. The working directory is the repository, and $python is the interpreter.

# Whether sbatch started this script: it runs a copy that it calls slurm_script. A script that is
# started by hand in an interactive job keeps its name, and is not requeued.
is_batch_job() {
    [[ ${0##*/} == slurm_script ]]
}

# Print the number of GPUs that SLURM has granted on this node. Which of these variables SLURM sets
# depends on its version and on how the GPUs were requested.
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

# set_launch FLAGS...: set $launch to the command that runs a script with these flags. It is Python
# for one process, and torchrun on every node, with one worker per GPU, for several. A search is one
# process, which starts its trials itself.
set_launch() {
    local nodes=${SLURM_JOB_NUM_NODES:-1} gpus head
    gpus=$(granted_gpus)
    if [[ " $* " == *" --hpo"* ]]; then
        if ((nodes > 1)); then
            fail "A search is one process: submit it with --nodes=1. Its trials can run on more" \
                "machines where Ray runs already: see --ray_address."
        fi
        gpus=1
    fi
    if ((nodes == 1 && gpus <= 1)); then
        launch=("$python" -u)
        return
    fi
    # SLURM sends its signal 120 seconds before the end. Give the workers nearly all of that time to
    # save; torchrun's default is 30 seconds.
    launch=("$python" -u -m torch.distributed.run --shutdown_timeout 110
        --nproc_per_node "$((gpus > 0 ? gpus : 1))")
    if ((nodes == 1)); then
        launch+=(--standalone)
        return
    fi
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    head=${head%%$'\n'*} # not `| head -1`: scontrol could end by SIGPIPE, and with it the job
    launch=(srun --nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1
        --cpus-per-task "${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1
        "${launch[@]}" --nnodes "$nodes" --rdzv_backend c10d
        --rdzv_id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
        --rdzv_endpoint "$head:$((20000 + SLURM_JOB_ID % 20000))")
}

# run_job SAVED COMMAND...: run the command and return its exit status. At SLURM's early SIGUSR1,
# tell the command to save, and then put the job back into the queue. A job that reaches its time
# limit is only requeued if it has made progress, as it would otherwise be requeued forever. Progress
# is a new checkpoint or new metrics in a path that starts with SAVED.
run_job() {
    local saved=$1 child status marker asked_to_stop="" trapped
    shift
    marker=$(mktemp)
    # The command gets SIGTERM: srun and torchrun pass it on to their workers, unlike SIGUSR1.
    trap 'trapped=yes asked_to_stop=USR1; kill -TERM "$child" || true' USR1
    trap 'trapped=yes asked_to_stop=${asked_to_stop:-TERM}; kill -TERM "$child" || true' TERM
    "$@" &
    child=$!
    if [[ -n ${early_signal:-} ]]; then kill -USR1 $$; fi
    while :; do
        trapped="" status=0
        wait "$child" || status=$?
        # A trapped signal ends `wait` with 128 + its number, while the child is still running.
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
    if ! is_preempted && ! has_progress "$saved" "$marker"; then
        echo "Nothing was saved before the time limit, so the job is not requeued: give the job a" \
            "longer --time, or the run a smaller --save_every." >&2
        return
    fi
    if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
        job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    fi
    echo "Requeued after SLURM's early signal of the time limit or of a preemption." >&2
    scontrol requeue "$job"
}

# Whether the signal came from a preemption: the time limit is still far away.
is_preempted() {
    ((${SLURM_JOB_END_TIME:-0} - $(date +%s) > 600))
}

# has_progress SAVED MARKER: whether a path that starts with SAVED is newer than the file MARKER.
has_progress() {
    local found
    found=$(find "$(dirname "$1.")" -path "$1*" -newer "$2" \
        \( -name '*.pt' -o -name 'metrics*.json*' \) -print -quit 2>/dev/null)
    [[ -n $found ]]
}
