#!/usr/bin/env bash
# tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
# On several nodes: run the same command on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set. Without a GPU: CPU processes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if [ "$#" -lt 3 ]; then
    mmfreq_die "expected at least 3 arguments, got $#." 'Usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]' \
        'For example: tools/dist_test.sh configs/upernet_hornet_ade20k.py work_dirs/run/iter_160000.pth 8'
fi
mmfreq_check_count GPUS "$3"
config="$(mmfreq_config "$1")"
[ -f "$2" ] || mmfreq_die "checkpoint not found: $2" "Searched: $PWD"
checkpoint="$2" gpus="$3"
shift 3
mmfreq_existing_environment
mmfreq_torchrun "$MMFREQ_ROOT/tools/test.py" "$gpus" "$config" "$checkpoint" --launcher pytorch "$@"
