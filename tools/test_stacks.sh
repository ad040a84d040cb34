#!/usr/bin/env bash
# tools/test_stacks.sh [--keep] [--out FILE] [NAME ...]
# Tests mmfreq on other stacks. For each row of tools/stacks.txt, or each NAME: creates an environment, installs the packages of
# the row and runs its tests. Prints one line per stack; fails if any stack fails.
#   --out FILE   writes each line to the Markdown table in FILE, created if it does not exist; keeps other rows and the other text
#   --keep       keeps the environments (about 6 GB each) in the cache folder of tools/env.sh; the logs are always kept there
# Requires the Python versions of the rows, on PATH or in pyenv. A stack takes 5 to 15 minutes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

# The core of the test suite: without slow tests, except golden ones. `backbones`: imports, backbones, golden numbers, published files.
# `core`: also ops, layers, decoders, mmcv's ops, the doctor, data, checks before a run, the engine, and training runs of the toy config.
BACKBONES=(
    tests/test_imports.py tests/compat/test_finder.py tests/weights/test_load.py
    tests/models/test_{affnet,backbone_contract,dfformer,gfnet,gfnet_cnn,hornet}.py
)
CORE=(
    "${BACKBONES[@]}" tests/ops/test_{complex,spectral,resize}.py tests/layers tests/speed tests/weights/test_{convert,files}.py
    tests/models/test_{conv_layer,image_classifier,in_stock_configs,necks,precision,seg_heads,ssdlite}.py
    tests/integrations/test_timm.py tests/test_doctor.py tests/datasets tests/engine tests/preflight tests/apis
    tests/compat/test_{mmcv_attention,mmcv_deform,mmcv_focal,mmcv_missing,mmcv_nms,mmcv_roi,safe_load,stack,stack_facts,stock_models}.py
    tests/tools/test_train_test.py
)

# python_of VERSION: prints a Python of this version that can create virtual environments
python_of() {
    local path each candidates=()
    candidates+=("$(mmfreq_path_of "python$1")" "$(mmfreq_path_of python3)")
    if command -v pyenv >/dev/null 2>&1; then
        # on PATH is a shim of pyenv, which starts only if its version is selected
        for each in $(pyenv whence "python$1" 2>/dev/null); do candidates+=("$(pyenv prefix "$each")/bin/python$1"); done
    fi
    for path in "${candidates[@]}"; do
        [ -n "$path" ] && [ "$("$path" -c "$MMFREQ_PYTHON_CHECK" 2>/dev/null)" = "$1" ] || continue
        if "$path" -c 'import venv, ensurepip' >/dev/null 2>&1; then
            printf '%s\n' "$path"
            return 0
        fi
    done
    return 1
}

# stack_of NAME: prints its row of tools/stacks.txt without the name, nothing if there is no such row
stack_of() {
    local name rest
    while read -r name rest; do
        if [ "$name" = "$1" ]; then printf '%s\n' "$rest"; fi
    done <"$MMFREQ_ROOT/tools/stacks.txt"
}

table() { mmfreq_with_checkout "$1" -m mmfreq.testing.stack_table "${@:2}"; }

# pip_error LOG: prints the last error message of pip
pip_error() {
    local line error=''
    while IFS= read -r line; do
        case "$line" in ERROR:*) error="$line" ;; esac
    done <"$1"
    printf '%s\n' "${error:-see the log}"
}

# test_stack NAME PYTHON TESTS REQUIREMENTS...: prints the row of the table; all other output goes to $log
test_stack() {
    local name="$1" version="$2" tests="$3" python files=()
    shift 3
    case "$tests" in
        core) files=("${CORE[@]}") ;;
        backbones) files=("${BACKBONES[@]}") ;;
    esac
    if ! python="$(python_of "$version")"; then
        table "$host" not-tested "$name" "$version" "$tests" "no Python $version with venv and ensurepip, on PATH or in pyenv"
        return
    fi
    rm -rf "$venv" "$venv.xml"
    if ! "$python" -m venv "$venv" >>"$log" 2>&1 || ! mmfreq_pip "$venv/bin/python" "$log" --no-compile "$@" pytest; then
        table "$host" not-tested "$name" "$version" "$tests" "not installed: $(pip_error "$log")"
        return
    fi
    (
        mmfreq_use_own "$venv"
        if ! python -m mmfreq.doctor >>"$log" 2>&1; then
            mmfreq_log "$name: python -m mmfreq.doctor reports that this stack is not usable"
            table python not-tested "$name" "$version" "$tests" 'installed, but mmfreq.doctor reports that it is not usable'
            exit
        fi
        # mmengine.hub runs `pip install` for missing packages, which would change the stack during the tests
        PIP_NO_INDEX=1 python -m pytest -q -m 'not slow or golden' -p no:cacheprovider --junitxml "$venv.xml" "${files[@]}" >>"$log" 2>&1 || true
        table python row "$name" "$tests" "$venv.xml"
    )
}

usage='Usage: tools/test_stacks.sh [--keep] [--out FILE] [NAME ...]'
keep='' out='' selected=()
while [ "$#" -gt 0 ]; do
    case "$1" in
        --keep) keep=1 ;;
        --out)
            [ "$#" -gt 1 ] || mmfreq_die '--out requires a file' "$usage"
            out="$2"
            shift
            ;;
        -*) mmfreq_die "unknown option $1" "$usage" ;;
        *) selected+=("$1") ;;
    esac
    shift
done
case "$out" in '' | /*) ;; *) out="$PWD/$out" ;; esac

known=()
while read -r name _; do
    case "$name" in '' | '#'*) ;; *) known+=("$name") ;; esac
done <"$MMFREQ_ROOT/tools/stacks.txt"
[ "${#selected[@]}" -gt 0 ] || selected=("${known[@]}")
for name in "${selected[@]}"; do
    [ -n "$(stack_of "$name")" ] || mmfreq_die "no stack '$name' in tools/stacks.txt" "Known stacks: ${known[*]}"
done

# the stacks must not see packages of the active environment
unset PYTHONPATH PYTHONHOME
cd "$MMFREQ_ROOT"
host="$(mmfreq_find_python)" || exit 1
cache="$(mmfreq_cache)" || exit 1
mmfreq_lock "$host" "$cache/stacks.lock"
venv=''
trap '[ -z "$venv" ] || [ -n "$keep" ] || rm -rf "$venv"' EXIT

failed=()
for name in "${selected[@]}"; do
    started="$SECONDS" venv="$cache/stack-$name"
    log="$venv.log"
    : >"$log"
    read -ra row <<<"$(stack_of "$name")"
    mmfreq_log "--- $name: Python ${row[0]}, ${row[*]:2}"
    line="$(test_stack "$name" "${row[@]}")"
    printf '%s\n' "$line"
    [ -z "$out" ] || table "$host" into "$out" "$line"
    case "$line" in
        "| $name | passed |"*) mmfreq_log "$name passed ($((SECONDS - started)) s)" ;;
        *)
            failed+=("$name")
            mmfreq_log "$name FAILED ($((SECONDS - started)) s). The log: $log"
            ;;
    esac
    [ -n "$keep" ] || rm -rf "$venv"
done

[ "${#failed[@]}" -eq 0 ] || mmfreq_die "failed: ${failed[*]}" "The logs: $cache/stack-NAME.log"
