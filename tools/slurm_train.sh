#!/usr/bin/env bash
# tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
# Environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS (more options for srun, separated by spaces), REQUEUES (100).
# A preempted run saves its state, ends with status 75, and is started again with --resume auto, at most REQUEUES times: by
# `scontrol requeue` in a batch job, otherwise by another srun. For a time limit, set SRUN_ARGS='--signal=USR1@120'.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if [ "$#" -lt 4 ]; then
    mmfreq_die "expected at least 4 arguments, got $#." 'Usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]' \
        'For example: GPUS=16 tools/slurm_train.sh gpu hornet configs/upernet_hornet_ade20k.py work_dirs/hornet'
fi
gpus="${GPUS:-8}"
gpus_per_node="${GPUS_PER_NODE:-8}"
cpus_per_task="${CPUS_PER_TASK:-5}"
requeues="${REQUEUES:-100}"
mmfreq_check_count GPUS "$gpus"
mmfreq_check_count GPUS_PER_NODE "$gpus_per_node"
mmfreq_check_count CPUS_PER_TASK "$cpus_per_task"
[ "$requeues" = 0 ] || mmfreq_check_count REQUEUES "$requeues"
[ "$gpus" -ge "$gpus_per_node" ] || gpus_per_node="$gpus"
partition="$1" job="$2" config="$(mmfreq_config "$3")" work_dir="$4"
shift 4
[ -n "$(mmfreq_path_of srun)" ] || mmfreq_die 'srun not found.' \
    'Run this on a login node of a Slurm cluster, or use tools/dist_train.sh on one machine.'
mmfreq_existing_environment
read -ra srun_args <<<"${SRUN_ARGS:-}"

STOPPED=75 # the exit status in mmfreq/torchrun.py for a run that saved its state
# the run is a child of this script, which must survive the signal to read the exit status
set -m # so that the run does not ignore Ctrl-C
# `$!` instead of a variable: the signal may arrive before the assignment that follows the start
for signal in INT TERM USR1; do trap '[ -z "${!:-}" ] || kill -'$signal' "$!" 2>/dev/null || true' "$signal"; done

train() {
    srun --partition "$partition" --job-name "$job" --gres "gpu:$gpus_per_node" --ntasks "$gpus" --ntasks-per-node "$gpus_per_node" \
        --cpus-per-task "$cpus_per_task" --kill-on-bad-exit=1 ${srun_args[@]+"${srun_args[@]}"} \
        "$MMFREQ_PYTHON" -u "$MMFREQ_ROOT/tools/train.py" "$config" --work-dir "$work_dir" --launcher slurm "$@" </dev/null &
    step="$!" status=0
    wait "$step" || status="$?"
    while kill -0 "$step" 2>/dev/null; do # a signal ends `wait`, not the run
        status=0
        wait "$step" || status="$?"
    done
}

starts="${SLURM_RESTART_COUNT:-0}"
while :; do
    if [ "$starts" -gt 0 ]; then train "$@" --resume auto; else train "$@"; fi
    [ "$status" -eq "$STOPPED" ] || exit "$status"
    starts=$((starts + 1))
    if [ "$starts" -gt "$requeues" ]; then
        mmfreq_log "the run was stopped after $requeues restarts and is not started again. Continue it with --resume."
        exit "$status"
    fi
    mmfreq_log "the run was stopped and saved its state. Starting it again (restart $starts)."
    if [ -n "${SLURM_JOB_ID:-}" ] && scontrol requeue "$SLURM_JOB_ID" 2>/dev/null; then exit "$status"; fi
done
