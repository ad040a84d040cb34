#!/usr/bin/env bash
# tools/run_tests.sh [--fast] [arguments of pytest]
# Sets up the environment where there is none, then ruff and all tests; --fast leaves out those marked `slow`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

marker=()
arguments=()
for argument in "$@"; do
    if [ "$argument" = --fast ]; then marker=(-m 'not slow'); else arguments+=("$argument"); fi
done
mmfreq_ensure_pytest

cores="$("$MMFREQ_PYTHON" -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$cores}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-$cores}"

# from the root, so that relative paths among the arguments mean the checkout's and pyproject.toml is found
cd "$MMFREQ_ROOT"
lint=0
if "$MMFREQ_PYTHON" -m ruff --version >/dev/null 2>&1; then
    "$MMFREQ_PYTHON" -m ruff check . || lint=$?
else
    mmfreq_say 'ruff is not in the active environment: style is NOT checked.'
fi
tests=0
"$MMFREQ_PYTHON" -m pytest ${marker[@]+"${marker[@]}"} ${arguments[@]+"${arguments[@]}"} || tests=$?
if [ "$lint" -ne 0 ]; then mmfreq_say 'ruff found something: see above, before the tests.'; fi
exit $((tests != 0 ? tests : lint))
