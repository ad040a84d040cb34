# Chooses the Python that runs mmfreq. Sourced by the other scripts here, under `set -euo pipefail`; changes nothing when sourced.
#
#   mmfreq_ensure_environment   the active Python if the whole stack works in it; otherwise the project's own environment, created
#                               if it does not exist
#   mmfreq_ensure_pytest        the same, with pytest and pytest-xdist. An active environment of the user is never changed: missing
#                               packages are installed in a folder of the cache
#   mmfreq_ensure_installed     for the project's own environment: an editable installation of this checkout
#   mmfreq_existing_environment the active Python if everything that any training run needs is installed in it; otherwise the
#                               project's own environment, if it is complete. Installs and imports nothing: for training scripts
#
# Afterwards $MMFREQ_PYTHON is the interpreter and PYTHONPATH starts with this checkout.
#
# The project's own environment is ${XDG_CACHE_HOME:-$HOME/.cache}/mmfreq/venv-<python>-<hash of the requirement files>, or
# .venv-mmfreq/ in the checkout if that folder is not writable. A stamp file, written last, marks it as complete. Checkouts with
# the same requirement files share it. Because of PYTHONPATH, a script always uses its own checkout. For everything else mmfreq is
# installed in the environment (editable), from the checkout in which tools/quickstart.sh ran last; any other script installs its
# checkout only if none is installed or the installed one no longer exists.

MMFREQ_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
MMFREQ_REQUIREMENTS=(
    "$MMFREQ_ROOT/mmfreq/compat/lite.txt" "$MMFREQ_ROOT/tools/requirements-test.txt" "$MMFREQ_ROOT/tools/requirements-export.txt"
)

# mmfreq comes first: it supplies mmcv._ext if mmcv is not compiled. The last line loads what the shipped configs use.
MMFREQ_STACK_CHECK='
import mmfreq
import torch, torchvision, mmengine, mmcv
import mmseg, mmdet, mmpretrain
import mmcv.ops, mmseg.models, mmdet.models, mmpretrain.models
'
# looks up the same names without importing them: milliseconds instead of seconds
MMFREQ_STACK_LOOKUP='
import sys
from importlib.util import find_spec
missing = [name for name in "torch torchvision mmengine mmcv mmseg mmdet mmpretrain".split() if find_spec(name) is None]
print("" if "mmengine" in missing else " ".join(missing))  # a Python without OpenMMLab is not worth a message
sys.exit(bool(missing))
'
# the minimum for training; which of the three libraries is needed depends on the config
MMFREQ_TRAINING_LOOKUP='
import sys
from importlib.util import find_spec
needed = all(map(find_spec, ("torch", "mmengine", "mmcv")))
sys.exit(not (needed and any(map(find_spec, ("mmseg", "mmdet", "mmpretrain")))))
'
# python -c ... ROOT this|any: whether mmfreq is installed, from the checkout ROOT and in its version, or from any that exists
MMFREQ_INSTALL_CHECK='
import os, re, sys
from importlib import metadata
from importlib.util import find_spec
root, which = sys.argv[1:]
spec = find_spec("mmfreq")
if spec is None or spec.origin is None:
    sys.exit(1)
if which == "this":
    version = re.search("(?m)^__version__ = .(.+).$", open(os.path.join(root, "mmfreq", "version.py")).read()).group(1)
    here = os.path.realpath(spec.origin) == os.path.realpath(os.path.join(root, "mmfreq", "__init__.py"))
    sys.exit(not (here and metadata.version("mmfreq") == version))
'
MMFREQ_PYTHON_CHECK='
import sys
print("%d.%d" % sys.version_info[:2])
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
'

mmfreq_log() { printf '[mmfreq] %s\n' "$*" >&2; }

mmfreq_die() {
    mmfreq_log "error: $1"
    shift
    local line
    for line in "$@"; do mmfreq_log "       $line"; done
    exit 1
}

# mmfreq_path_of NAME: prints the absolute path of the executable, nothing if there is none
mmfreq_path_of() {
    local path
    path="$(command -v "$1" 2>/dev/null)" || return 0
    case "$path" in
        /*) printf '%s\n' "$path" ;;
        *) printf '%s/%s\n' "$PWD" "$path" ;;
    esac
}

# runs in the checkout, so that a folder named mmseg or torch in the current folder is not imported as the package
mmfreq_with_checkout() { (cd "$MMFREQ_ROOT" && PYTHONPATH="$MMFREQ_ROOT${PYTHONPATH:+:$PYTHONPATH}" "$@"); }

# mmfreq_has_stack PYTHON: succeeds if everything can be imported; otherwise logs the reason in one line
mmfreq_has_stack() {
    local missing problem
    if ! missing="$(mmfreq_with_checkout "$1" -c "$MMFREQ_STACK_LOOKUP" 2>/dev/null)"; then
        [ -z "$missing" ] || mmfreq_log "the active Python ($1) does not have: $missing"
        return 1
    fi
    if ! problem="$(mmfreq_with_checkout "$1" -c "$MMFREQ_STACK_CHECK" 2>&1)"; then
        mmfreq_log "the active Python ($1) has the packages, but importing them fails: $(tail -n 1 <<<"$problem")"
        return 1
    fi
}

mmfreq_can_train() { mmfreq_with_checkout "$1" -c "$MMFREQ_TRAINING_LOOKUP" 2>/dev/null; }

# mmfreq_active CHECK: prints the active Python if it passes CHECK, which is mmfreq_has_stack or mmfreq_can_train
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

# mmfreq_find_python: prints a Python that can create virtual environments, or ends with a list of what was found
mmfreq_find_python() {
    local name path found version rejected=() no_pip=''
    for name in python3.13 python3.12 python3.11 python3.10 python3 python; do
        path="$(mmfreq_path_of "$name")"
        [ -n "$path" ] || continue
        if ! found="$("$path" -c "$MMFREQ_PYTHON_CHECK" 2>/dev/null)"; then
            rejected+=("$name ($path): ${found:-does not start}")
        elif ! "$path" -c 'import venv, ensurepip' 2>/dev/null; then
            no_pip="${no_pip:-$found $path}"
        else
            printf '%s\n' "$path"
            return 0
        fi
    done
    if [ -n "$no_pip" ]; then
        version="${no_pip%% *}"
        mmfreq_die "Python $version (${no_pip#* }) cannot create virtual environments: its modules venv and ensurepip are missing." \
            "On Debian and Ubuntu, run:  sudo apt install python$version-venv   and then this script again." \
            'Or activate an environment that has the stack (python -m mmfreq.doctor reports what is missing).'
    fi
    [ "${#rejected[@]}" -gt 0 ] || rejected=('no python, python3 or python3.x on PATH')
    mmfreq_die 'Python 3.10 to 3.13 is required. Found:' "${rejected[@]}" \
        'Install one (on Debian and Ubuntu: sudo apt install python3 python3-venv) and run this script again.'
}

# mmfreq_cache: prints the folder of the project's environments; creates it if it does not exist
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
    mmfreq_die 'no writable folder for the environment.' "Tried: ${base:-(HOME and XDG_CACHE_HOME are not set)}/mmfreq" \
        "and:   $fallback" 'Set XDG_CACHE_HOME to a folder with about 8 GB of free space.'
}

# mmfreq_own_environment PYTHON: prints the path of the project's environment for this Python
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

# mmfreq_pip PYTHON LOG ARGS...: pip install; all output goes to the log, large downloads and the last step also to the terminal
mmfreq_pip() {
    local python="$1" log="$2" line
    shift 2
    "$python" -m pip install --disable-pip-version-check --no-input "$@" 2>&1 | while IFS= read -r line; do
        printf '%s\n' "$line" >>"$log"
        case "$line" in
            *Downloading*[0-9][0-9].[0-9]\ MB\)* | *Downloading*GB\)*) mmfreq_log "   ${line#"${line%%[![:space:]]*}"}" ;;
            Installing\ collected*) mmfreq_log '   installing the downloaded packages (the longest step, no output for a minute or more) ...' ;;
        esac
    done
}

# mmfreq_failed WHAT LOG: ends the script with the last lines of the log
mmfreq_failed() {
    mmfreq_log "error: $1. The last lines of the log:"
    tail -n 30 "$2" >&2
    mmfreq_log "The full log: $2"
    mmfreq_log 'Fix the cause (network, disk space, no wheel for this Python) and run this script again. It starts from the beginning.'
    exit 1
}

# mmfreq_make_environment PYTHON VENV: the caller holds the lock
mmfreq_make_environment() {
    local python="$1" venv="$2" log="$2.log" started="$SECONDS" problem
    if [ -e "$venv" ]; then
        mmfreq_log "$venv is incomplete (interrupted installation): creating it again."
        rm -rf "$venv"
    fi
    mmfreq_log "Creating an environment with $("$python" --version 2>&1) in $venv"
    mmfreq_log 'Installing PyTorch and the OpenMMLab libraries. This takes a few minutes, once.'
    : >"$log"
    "$python" -m venv "$venv" >>"$log" 2>&1 || mmfreq_failed "$python -m venv failed" "$log"
    local file args=()
    for file in "${MMFREQ_REQUIREMENTS[@]}"; do args+=(-r "$file"); done
    mmfreq_pip "$venv/bin/python" "$log" "${args[@]}" || mmfreq_failed 'the installation failed' "$log"
    mmfreq_log '   checking that everything can be imported ...'
    if ! problem="$(mmfreq_with_checkout "$venv/bin/python" -c "$MMFREQ_STACK_CHECK" 2>&1)"; then
        printf '%s\n' "$problem" >>"$log"
        mmfreq_failed 'everything was installed, but importing it fails' "$log"
    fi
    date >"$venv/mmfreq-complete"
    mmfreq_log "The environment is ready ($((SECONDS - started)) s)."
}

# outside any checkout and without PYTHONPATH, where only installed packages are found
mmfreq_outside() { (cd / && unset PYTHONPATH && "$@"); }

# mmfreq_is_installed VENV this|any: see MMFREQ_INSTALL_CHECK
mmfreq_is_installed() { mmfreq_outside "$1/bin/python" -c "$MMFREQ_INSTALL_CHECK" "$MMFREQ_ROOT" "$2" 2>/dev/null; }

# mmfreq_ensure_installed VENV this|any: installs this checkout (editable) unless it is installed, or any checkout that exists.
# Milliseconds if there is nothing to do. A failure is not fatal: the scripts find the checkout by PYTHONPATH.
mmfreq_ensure_installed() {
    local venv="$1" which="$2"
    mmfreq_is_installed "$venv" "$which" && return 0
    [ -w "$venv" ] || return 0
    mmfreq_lock "$venv/bin/python" "$venv.lock"
    if ! mmfreq_is_installed "$venv" "$which"; then
        mmfreq_log "Installing mmfreq from $MMFREQ_ROOT (editable) in $venv"
        mmfreq_outside mmfreq_pip "$venv/bin/python" "$venv.log" --quiet --no-deps --no-build-isolation -e "$MMFREQ_ROOT" ||
            mmfreq_log "warning: the installation failed, so \`import mmfreq\` works only in the checkout. The log: $venv.log"
    fi
    exec 9>&-
}

# mmfreq_lock PYTHON FILE: waits for the lock and holds it until `exec 9>&-` or until the script ends, for whatever reason.
# The lock belongs to descriptor 9, which the Python process below shares with this shell. No flock command is needed.
mmfreq_lock() {
    local python="$1" file="$2"
    exec 9>"$file"
    "$python" -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("[mmfreq] another run is preparing the environment; waiting for it ...", file=sys.stderr, flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError as error:
    print(f"[mmfreq] this folder cannot be locked ({error}): do not start a second run before this one has finished.", file=sys.stderr)
'
}

# mmfreq_link_mim: mmengine looks for `mmfreq::seg/...` in mmfreq/.mim/configs; in a wheel these are copies (setup.py)
mmfreq_link_mim() {
    local entry mim="$MMFREQ_ROOT/mmfreq/.mim"
    mkdir -p "$mim" 2>/dev/null && [ -w "$mim" ] || return 0
    for entry in configs tools model-index.yml; do
        [ ! -e "$MMFREQ_ROOT/$entry" ] || [ -e "$mim/$entry" ] || ln -sfn "../../$entry" "$mim/$entry"
    done
}

# mmfreq_use PYTHON: exports the chosen interpreter
mmfreq_use() {
    mmfreq_link_mim
    MMFREQ_PYTHON="$1"
    export MMFREQ_PYTHON
    export PYTHONPATH="$MMFREQ_ROOT${PYTHONPATH:+:$PYTHONPATH}"
    # threads that wait in a busy loop compete with other processes for the cores: ten times slower on a busy CPU
    export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
    mmfreq_log "Python: $MMFREQ_PYTHON"
}

mmfreq_use_own() {
    unset PYTHONHOME
    export VIRTUAL_ENV="$1" PATH="$1/bin:$PATH"
    mmfreq_use "$1/bin/python"
}

# mmfreq_chosen_own: prints the folder of the project's own environment if that is the chosen one, also if the user activated it
mmfreq_chosen_own() {
    local venv
    venv="$(cd "$(dirname "$MMFREQ_PYTHON")/.." && pwd)"
    [ ! -f "$venv/mmfreq-complete" ] || printf '%s\n' "$venv"
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
    mmfreq_ensure_installed "$venv" any
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
    mmfreq_is_complete "$venv" || mmfreq_die 'the active Python does not have the stack, and the project has no environment yet.' \
        'Either create one:        bash tools/quickstart.sh' 'or, in your environment:  pip install -e ".[lite]"'
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
            mmfreq_log "The active environment does not have pytest and pytest-xdist, and is not changed: installing them in $folder"
            rm -rf "$folder"
            : >"$folder.log"
            mmfreq_pip "$MMFREQ_PYTHON" "$folder.log" --target "$folder" pytest pytest-xdist || mmfreq_failed 'pytest could not be installed' "$folder.log"
            date >"$folder/mmfreq-complete"
        fi
        exec 9>&-
    fi
    export PYTHONPATH="$PYTHONPATH:$folder"
}

# mmfreq_config PATH: prints the absolute path of the config; a relative PATH is tried from the current folder, then the checkout
mmfreq_config() {
    local path
    for path in "$1" "$MMFREQ_ROOT/$1"; do
        if [ -f "$path" ]; then
            printf '%s/%s\n' "$(cd "$(dirname "$path")" && pwd -P)" "$(basename "$path")"
            return 0
        fi
    done
    mmfreq_die "config not found: $1" "Searched: $PWD" "and:      $MMFREQ_ROOT"
}

# mmfreq_free_port: prints an unused port
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
        mmfreq_die "$gpus GPUs were requested, but $visible are visible here (CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-not set})." \
            'Request fewer, or run the same command on each of several nodes with NNODES and NODE_RANK set.'
    fi
    [ "$visible" -gt 0 ] || mmfreq_log "no GPU found: starting $gpus processes on the CPU."
    # several nodes must use the same port; on one node a free port avoids a conflict with another run
    if [ "$nodes" -gt 1 ]; then port="${PORT:-29500}"; else port="${PORT:-$(mmfreq_free_port)}"; fi
    if [ "$visible" -eq 0 ] && [ -z "${OMP_NUM_THREADS:-}" ]; then
        OMP_NUM_THREADS="$("$MMFREQ_PYTHON" -c 'import os, sys; print(max(1, (os.cpu_count() or 1) // int(sys.argv[1])))' "$gpus")"
        export OMP_NUM_THREADS
    fi
    exec "$MMFREQ_PYTHON" -m mmfreq.torchrun --nnodes "$nodes" --node_rank "${NODE_RANK:-0}" \
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "$port" --nproc_per_node "$gpus" "$script" "$@"
}

# mmfreq_check_count NAME VALUE: ends the script unless VALUE is a positive integer
mmfreq_check_count() {
    [[ "$2" =~ ^[1-9][0-9]*$ ]] || mmfreq_die "$1 must be a positive integer, got '$2'."
}
