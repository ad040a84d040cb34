#!/usr/bin/env bash
# tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
# Environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS (more options for srun, separated by spaces).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if [ "$#" -lt 4 ]; then
    mmfreq_die "expected at least 4 arguments, got $#." 'Usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]' \
        'For example: GPUS=16 tools/slurm_train.sh gpu hornet configs/upernet_hornet_ade20k.py work_dirs/hornet'
fi
gpus="${GPUS:-8}"
gpus_per_node="${GPUS_PER_NODE:-8}"
cpus_per_task="${CPUS_PER_TASK:-5}"
mmfreq_check_count GPUS "$gpus"
mmfreq_check_count GPUS_PER_NODE "$gpus_per_node"
mmfreq_check_count CPUS_PER_TASK "$cpus_per_task"
[ "$gpus" -ge "$gpus_per_node" ] || gpus_per_node="$gpus"
partition="$1" job="$2" config="$(mmfreq_config "$3")" work_dir="$4"
shift 4
[ -n "$(mmfreq_path_of srun)" ] || mmfreq_die 'there is no srun here.' \
    'Run this on a login node of a Slurm cluster, or use tools/dist_train.sh on one machine.'
mmfreq_existing_environment
read -ra srun_args <<<"${SRUN_ARGS:-}"
exec srun --partition "$partition" --job-name "$job" --gres "gpu:$gpus_per_node" --ntasks "$gpus" --ntasks-per-node "$gpus_per_node" \
    --cpus-per-task "$cpus_per_task" --kill-on-bad-exit=1 ${srun_args[@]+"${srun_args[@]}"} \
    "$MMFREQ_PYTHON" -u "$MMFREQ_ROOT/tools/train.py" "$config" --work-dir "$work_dir" --launcher slurm "$@"
