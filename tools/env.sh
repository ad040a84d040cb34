# Which Python runs mmfreq. Sourced by the other scripts here, under `set -euo pipefail`; sets nothing up by itself.
#
#   mmfreq_ensure_environment   the active Python if the whole stack works there, else the project's own environment (made if absent)
#   mmfreq_ensure_pytest        pytest and pytest-xdist too; an active environment is never changed: what is missing there goes to a
#                               folder of the cache
#   mmfreq_existing_environment the active Python if what any training needs is installed there, else the project's own if it is
#                               complete; nothing is installed or imported: for scripts that start training
#
# After each: $MMFREQ_PYTHON is the interpreter and PYTHONPATH starts with this checkout. mmfreq is not installed into the
# environment, so several checkouts can share one.
# The project's own environment is ${XDG_CACHE_HOME:-$HOME/.cache}/mmfreq/venv-<python>-<hash of the requirement files>, or
# .venv-mmfreq/ in the checkout where that folder cannot be written. A stamp file, written last, marks it as complete.

MMFREQ_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
MMFREQ_REQUIREMENTS=("$MMFREQ_ROOT/mmfreq/compat/lite.txt" "$MMFREQ_ROOT/tools/requirements-test.txt")

# mmfreq comes first: it supplies mmcv._ext where mmcv was not compiled. The last lines load what the shipped configs use.
MMFREQ_STACK_CHECK='
import mmfreq
import torch, torchvision, mmengine, mmcv
import mmseg, mmdet, mmpretrain
import mmcv.ops, mmseg.models, mmdet.models, mmpretrain.models
'
# the same names, looked up without importing them: milliseconds instead of seconds
MMFREQ_STACK_LOOKUP='
import sys
from importlib.util import find_spec
missing = [name for name in "torch torchvision mmengine mmcv mmseg mmdet mmpretrain".split() if find_spec(name) is None]
print("" if "mmengine" in missing else " ".join(missing))  # a Python without OpenMMLab is nothing to report
sys.exit(bool(missing))
'
# what training needs at least; which of the three libraries it is, the config decides
MMFREQ_TRAINING_LOOKUP='
import sys
from importlib.util import find_spec
needed = all(map(find_spec, ("torch", "mmengine", "mmcv")))
sys.exit(not (needed and any(map(find_spec, ("mmseg", "mmdet", "mmpretrain")))))
'
MMFREQ_PYTHON_CHECK='
import sys
print("%d.%d" % sys.version_info[:2])
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
'

mmfreq_say() { printf '[mmfreq] %s\n' "$*" >&2; }

mmfreq_die() {
    mmfreq_say "error: $1"
    shift
    local line
    for line in "$@"; do mmfreq_say "       $line"; done
    exit 1
}

# mmfreq_path_of NAME: the executable's absolute path, empty where there is none
mmfreq_path_of() {
    local path
    path="$(command -v "$1" 2>/dev/null)" || return 0
    case "$path" in
        /*) printf '%s\n' "$path" ;;
        *) printf '%s/%s\n' "$PWD" "$path" ;;
    esac
}

# from the checkout, so that a folder called mmseg or torch where the user stands is not taken for the package
mmfreq_with_checkout() { (cd "$MMFREQ_ROOT" && PYTHONPATH="$MMFREQ_ROOT${PYTHONPATH:+:$PYTHONPATH}" "$@"); }

# mmfreq_has_stack PYTHON: true if everything imports there; otherwise says in one line what is wrong
mmfreq_has_stack() {
    local missing problem
    if ! missing="$(mmfreq_with_checkout "$1" -c "$MMFREQ_STACK_LOOKUP" 2>/dev/null)"; then
        [ -z "$missing" ] || mmfreq_say "the active Python ($1) lacks: $missing"
        return 1
    fi
    if ! problem="$(mmfreq_with_checkout "$1" -c "$MMFREQ_STACK_CHECK" 2>&1)"; then
        mmfreq_say "the active Python ($1) has the packages, but they do not import: $(tail -n 1 <<<"$problem")"
        return 1
    fi
}

mmfreq_can_train() { mmfreq_with_checkout "$1" -c "$MMFREQ_TRAINING_LOOKUP" 2>/dev/null; }

# mmfreq_active CHECK: prints the active Python if it passes the check, mmfreq_has_stack or mmfreq_can_train
mmfreq_active() {
    local name path
    for name in python python3; do
        path="$(mmfreq_path_of "$name")"
        [ -n "$path" ] || continue
        if "$1" "$path"; then
            printf '%s\n' "$path"
            return 0
        fi
    done
    return 1
}

# mmfreq_find_python: prints a Python that can make a virtual environment, or ends with what was found instead
mmfreq_find_python() {
    local name path found version unfit=() no_pip=''
    for name in python3.13 python3.12 python3.11 python3.10 python3 python; do
        path="$(mmfreq_path_of "$name")"
        [ -n "$path" ] || continue
        if ! found="$("$path" -c "$MMFREQ_PYTHON_CHECK" 2>/dev/null)"; then
            unfit+=("$name ($path): ${found:-does not start}")
        elif ! "$path" -c 'import venv, ensurepip' 2>/dev/null; then
            no_pip="${no_pip:-$found $path}"
        else
            printf '%s\n' "$path"
            return 0
        fi
    done
    if [ -n "$no_pip" ]; then
        version="${no_pip%% *}"
        mmfreq_die "Python $version (${no_pip#* }) cannot make virtual environments: its modules venv and ensurepip are missing." \
            "On Debian and Ubuntu:  sudo apt install python$version-venv   and then run this again." \
            'Or activate an environment that has the stack (python -m mmfreq.doctor tells what is missing).'
    fi
    [ "${#unfit[@]}" -gt 0 ] || unfit=('no python, python3 or python3.x on PATH')
    mmfreq_die 'a Python from 3.10 to 3.13 is needed. Found:' "${unfit[@]}" \
        'Install one (on Debian and Ubuntu: sudo apt install python3 python3-venv) and run this again.'
}

# mmfreq_cache: prints the folder for the project's environments, made if absent
mmfreq_cache() {
    local base="${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}"
    if [ -n "$base" ] && mkdir -p "$base/mmfreq" 2>/dev/null && [ -w "$base/mmfreq" ]; then
        printf '%s\n' "$base/mmfreq"
        return 0
    fi
    local fallback="$MMFREQ_ROOT/.venv-mmfreq"
    if mkdir -p "$fallback" 2>/dev/null && [ -w "$fallback" ]; then
        printf '*\n' >"$fallback/.gitignore"
        printf '%s\n' "$fallback"
        return 0
    fi
    mmfreq_die 'no folder for the environment can be written.' "Tried: ${base:-(HOME and XDG_CACHE_HOME are not set)}/mmfreq" \
        "and:   $fallback" 'Set XDG_CACHE_HOME to a folder with some 8 GB of space.'
}

# mmfreq_own_environment PYTHON: prints where the project's environment for this Python belongs
mmfreq_own_environment() {
    local cache key
    cache="$(mmfreq_cache)" || exit 1
    key="$("$1" -c '
import hashlib, sys
digest = hashlib.sha256(b"".join(open(path, "rb").read() for path in sys.argv[1:])).hexdigest()
print("%d.%d-%s" % (*sys.version_info[:2], digest[:10]))
' "${MMFREQ_REQUIREMENTS[@]}")" || exit 1
    printf '%s/venv-%s\n' "$cache" "$key"
}

mmfreq_is_complete() { [ -f "$1/mmfreq-complete" ] && "$1/bin/python" -c '' 2>/dev/null; }

# mmfreq_pip PYTHON LOG ARGS...: pip install; everything in the log, the large downloads and the last step on the screen
mmfreq_pip() {
    local python="$1" log="$2" line
    shift 2
    "$python" -m pip install --disable-pip-version-check --no-input "$@" 2>&1 | while IFS= read -r line; do
        printf '%s\n' "$line" >>"$log"
        case "$line" in
            *Downloading*[0-9][0-9].[0-9]\ MB\)* | *Downloading*GB\)*) mmfreq_say "   ${line#"${line%%[![:space:]]*}"}" ;;
            Installing\ collected*) mmfreq_say '   unpacking everything (the longest step; no output for a minute or more) ...' ;;
        esac
    done
}

# mmfreq_failed WHAT LOG: ends with the tail of the log
mmfreq_failed() {
    mmfreq_say "error: $1. The end of the log:"
    tail -n 30 "$2" >&2
    mmfreq_say "The whole log: $2"
    mmfreq_say 'Mend what it names (network, disk space, a wheel for this Python) and run this again: it starts anew.'
    exit 1
}

# mmfreq_make_environment PYTHON VENV: call it with the lock held
mmfreq_make_environment() {
    local python="$1" venv="$2" log="$2.log" started="$SECONDS" problem
    if [ -e "$venv" ]; then
        mmfreq_say "$venv is incomplete (an interrupted installation): making it anew."
        rm -rf "$venv"
    fi
    mmfreq_say "Making an environment with $("$python" --version 2>&1) in $venv"
    mmfreq_say 'PyTorch and the OpenMMLab libraries are installed into it: some minutes, once.'
    : >"$log"
    "$python" -m venv "$venv" >>"$log" 2>&1 || mmfreq_failed "$python -m venv did not work" "$log"
    local file args=()
    for file in "${MMFREQ_REQUIREMENTS[@]}"; do args+=(-r "$file"); done
    mmfreq_pip "$venv/bin/python" "$log" "${args[@]}" || mmfreq_failed 'the installation did not work' "$log"
    mmfreq_say '   checking that everything imports ...'
    if ! problem="$(mmfreq_with_checkout "$venv/bin/python" -c "$MMFREQ_STACK_CHECK" 2>&1)"; then
        printf '%s\n' "$problem" >>"$log"
        mmfreq_failed 'everything was installed, but it does not import' "$log"
    fi
    date >"$venv/mmfreq-complete"
    mmfreq_say "The environment is ready ($((SECONDS - started)) s)."
}

# mmfreq_lock PYTHON FILE: waits for the lock and holds it until `exec 9>&-` or the end of the script, however it ends.
# The lock belongs to descriptor 9, which the Python below shares with this shell: no flock command is needed.
mmfreq_lock() {
    local python="$1" file="$2"
    exec 9>"$file"
    "$python" -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("[mmfreq] another run is making the environment; waiting for it ...", file=sys.stderr, flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError as error:
    print(f"[mmfreq] this folder cannot be locked ({error}): do not start a second run before this one ends.", file=sys.stderr)
'
}

# mmfreq_link_mim: mmengine finds `mmfreq::seg/...` in mmfreq/.mim/configs; in a wheel these are copies (setup.py)
mmfreq_link_mim() {
    local entry mim="$MMFREQ_ROOT/mmfreq/.mim"
    mkdir -p "$mim" 2>/dev/null && [ -w "$mim" ] || return 0
    for entry in configs tools model-index.yml; do
        [ ! -e "$MMFREQ_ROOT/$entry" ] || [ -e "$mim/$entry" ] || ln -sfn "../../$entry" "$mim/$entry"
    done
}

# mmfreq_use PYTHON: exports the choice
mmfreq_use() {
    mmfreq_link_mim
    MMFREQ_PYTHON="$1"
    export MMFREQ_PYTHON
    export PYTHONPATH="$MMFREQ_ROOT${PYTHONPATH:+:$PYTHONPATH}"
    # threads that wait in a loop for each other lose their cores to anything else that runs: ten times slower on a busy CPU
    export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
    mmfreq_say "Python: $MMFREQ_PYTHON"
}

mmfreq_use_own() {
    unset PYTHONHOME
    export VIRTUAL_ENV="$1" PATH="$1/bin:$PATH"
    mmfreq_use "$1/bin/python"
}

mmfreq_ensure_environment() {
    local python venv
    if python="$(mmfreq_active mmfreq_has_stack)"; then
        mmfreq_use "$python"
        return 0
    fi
    python="$(mmfreq_find_python)" || exit 1
    venv="$(mmfreq_own_environment "$python")" || exit 1
    if ! mmfreq_is_complete "$venv"; then
        mmfreq_lock "$python" "$venv.lock"
        mmfreq_is_complete "$venv" || mmfreq_make_environment "$python" "$venv"
        exec 9>&-
    fi
    mmfreq_use_own "$venv"
}

mmfreq_existing_environment() {
    local python venv
    if python="$(mmfreq_active mmfreq_can_train)"; then
        mmfreq_use "$python"
        return 0
    fi
    python="$(mmfreq_find_python)" || exit 1
    venv="$(mmfreq_own_environment "$python")" || exit 1
    mmfreq_is_complete "$venv" || mmfreq_die 'no Python with the stack is active, and the project has no environment of its own yet.' \
        'Either make one:   bash tools/quickstart.sh' 'or install it:     pip install -e ".[lite]"   in an environment of yours.'
    mmfreq_use_own "$venv"
}

mmfreq_ensure_pytest() {
    mmfreq_ensure_environment
    "$MMFREQ_PYTHON" -c 'import pytest, xdist' 2>/dev/null && return 0
    local cache version folder
    cache="$(mmfreq_cache)" || exit 1
    version="$("$MMFREQ_PYTHON" -c "$MMFREQ_PYTHON_CHECK" || true)"
    folder="$cache/pytest-xdist-$version"
    if [ ! -f "$folder/mmfreq-complete" ]; then
        mmfreq_lock "$MMFREQ_PYTHON" "$folder.lock"
        if [ ! -f "$folder/mmfreq-complete" ]; then
            mmfreq_say "The active environment does not have pytest and pytest-xdist, and is not changed: installing them into $folder"
            rm -rf "$folder"
            : >"$folder.log"
            mmfreq_pip "$MMFREQ_PYTHON" "$folder.log" --target "$folder" pytest pytest-xdist || mmfreq_failed 'pytest could not be installed' "$folder.log"
            date >"$folder/mmfreq-complete"
        fi
        exec 9>&-
    fi
    export PYTHONPATH="$PYTHONPATH:$folder"
}

# mmfreq_config PATH: prints the config's path, absolute; relative ones are looked for here and then in the checkout
mmfreq_config() {
    local path
    for path in "$1" "$MMFREQ_ROOT/$1"; do
        if [ -f "$path" ]; then
            printf '%s/%s\n' "$(cd "$(dirname "$path")" && pwd -P)" "$(basename "$path")"
            return 0
        fi
    done
    mmfreq_die "there is no config $1" "Looked in: $PWD" "and in:    $MMFREQ_ROOT"
}

# mmfreq_free_port: a port that nobody listens on
mmfreq_free_port() {
    "$MMFREQ_PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# mmfreq_torchrun SCRIPT GPUS ARGS...: starts GPUS processes on this node
mmfreq_torchrun() {
    local script="$1" gpus="$2" nodes="${NNODES:-1}" port visible
    shift 2
    mmfreq_check_count NNODES "$nodes"
    visible="$("$MMFREQ_PYTHON" -c 'import torch; print(torch.cuda.device_count())')"
    if [ "$visible" -gt 0 ] && [ "$gpus" -gt "$visible" ]; then
        mmfreq_die "$gpus GPUs were asked for, but $visible can be seen here (CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-not set})." \
            'Give a number up to that, or start one of these on each node with NNODES and NODE_RANK.'
    fi
    [ "$visible" -gt 0 ] || mmfreq_say "no GPU here: $gpus processes on the CPU."
    # several nodes must agree on the port; on one node any free one avoids a clash with another run
    if [ "$nodes" -gt 1 ]; then port="${PORT:-29500}"; else port="${PORT:-$(mmfreq_free_port)}"; fi
    if [ "$visible" -eq 0 ] && [ -z "${OMP_NUM_THREADS:-}" ]; then
        OMP_NUM_THREADS="$("$MMFREQ_PYTHON" -c 'import os, sys; print(max(1, (os.cpu_count() or 1) // int(sys.argv[1])))' "$gpus")"
        export OMP_NUM_THREADS
    fi
    exec "$MMFREQ_PYTHON" -m mmfreq.torchrun --nnodes "$nodes" --node_rank "${NODE_RANK:-0}" \
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "$port" --nproc_per_node "$gpus" "$script" "$@"
}

# mmfreq_check_count NAME VALUE: ends unless it is a positive integer
mmfreq_check_count() {
    [[ "$2" =~ ^[1-9][0-9]*$ ]] || mmfreq_die "$1 must be a positive integer, got '$2'."
}
