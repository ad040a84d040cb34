#!/usr/bin/env bash
# tools/run_tests.sh [--fast | --numerics] [--cpu avx2 | --cpu sse4] [arguments of pytest]
# Creates the environment if there is none. Runs ruff (lint and format) and mypy, except with --cpu, then all tests with one
# single-threaded worker per core. Fails if any of them fails.
#   --fast       skips the tests marked `slow`
#   --numerics   runs only what depends on the instruction set of the processor: golden numbers, numerical laws, precision
#   --cpu NAME   emulates a processor without wider instructions than NAME
# `-n 0` runs the tests in one process; `-p randomly` runs them in random order.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

options=()
emulated=
while [ "$#" -gt 0 ]; do
    case "$1" in
        --fast) options+=(-m 'not slow') ;;
        --numerics) options+=(-m 'golden or numerics') ;;
        --cpu)
            emulated=1
            case "${2:-}" in
                avx2) export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ;;
                sse4) export ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 ;;
                *) mmfreq_die "--cpu must be avx2 or sse4, got '${2:-}'." ;;
            esac
            shift
            ;;
        *) options+=("$1") ;;
    esac
    shift
done
mmfreq_ensure_pytest

cores="$("$MMFREQ_PYTHON" -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')"
# for the first imports of the workers; tests/conftest.py does the same for the processes that they start
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"

# from the root, so that relative paths in the arguments are relative to the checkout and pyproject.toml is found
cd "$MMFREQ_ROOT"

failed=()
check() {
    if "$MMFREQ_PYTHON" -m "$1" --version >/dev/null 2>&1; then
        "$MMFREQ_PYTHON" -m "$@" || failed+=("$*")
    else
        mmfreq_log "$1 is not installed in the active environment: SKIPPED $*"
    fi
}
if [ -z "$emulated" ]; then # they do not depend on the processor
    check ruff check .
    check ruff format --check .
    check mypy
fi

tests=0
"$MMFREQ_PYTHON" -m pytest -n "$cores" --dist worksteal ${options[@]+"${options[@]}"} || tests=$?
for each in ${failed[@]+"${failed[@]}"}; do mmfreq_log "failed before the tests: $each"; done
[ "$tests" -eq 0 ] || exit "$tests"
[ "${#failed[@]}" -eq 0 ]
