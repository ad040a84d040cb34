#!/usr/bin/env bash
# tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# On several nodes: run the same command on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set. Without a GPU: CPU processes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if [ "$#" -lt 2 ]; then
    mmfreq_die "expected at least 2 arguments, got $#." 'Usage: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]' \
        'For example: tools/dist_train.sh configs/upernet_hornet_ade20k.py 8'
fi
mmfreq_check_count GPUS "$2"
config="$(mmfreq_config "$1")"
gpus="$2"
shift 2
mmfreq_existing_environment
mmfreq_torchrun "$MMFREQ_ROOT/tools/train.py" "$gpus" "$config" --launcher pytorch "$@"
