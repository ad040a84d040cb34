#!/usr/bin/env bash
# tools/run_tests.sh [--fast | --numerics] [--cpu avx2 | --cpu sse4] [arguments of pytest]
# Sets up the environment where there is none, then ruff and all tests: one worker per core, one thread each.
#   --fast       skips the tests marked `slow`
#   --numerics   only what depends on the processor's instructions: golden numbers, numerical laws, precision
#   --cpu NAME   imitates a processor whose widest instructions are these
# `-n 0` runs everything in one process; `-p randomly` runs the tests in random order.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

options=()
while [ "$#" -gt 0 ]; do
    case "$1" in
        --fast) options+=(-m 'not slow') ;;
        --numerics) options+=(-m 'golden or numerics') ;;
        --cpu)
            case "${2:-}" in
                avx2) export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ;;
                sse4) export ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 ;;
                *) mmfreq_die "--cpu takes avx2 or sse4, got '${2:-}'." ;;
            esac
            shift
            ;;
        *) options+=("$1") ;;
    esac
    shift
done
mmfreq_ensure_pytest

cores="$("$MMFREQ_PYTHON" -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')"
# for the workers' first imports; tests/conftest.py does the same for what they start
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"

# from the root, so that relative paths among the arguments mean the checkout's and pyproject.toml is found
cd "$MMFREQ_ROOT"
lint=0
if "$MMFREQ_PYTHON" -m ruff --version >/dev/null 2>&1; then
    "$MMFREQ_PYTHON" -m ruff check . || lint=$?
else
    mmfreq_say 'ruff is not in the active environment: style is NOT checked.'
fi
tests=0
"$MMFREQ_PYTHON" -m pytest -n "$cores" --dist worksteal ${options[@]+"${options[@]}"} || tests=$?
if [ "$lint" -ne 0 ]; then mmfreq_say 'ruff found something: see above, before the tests.'; fi
exit $((tests != 0 ? tests : lint))
