#!/usr/bin/env bash
# Starting from a plain Python: creates the environment, trains and tests a UPerNet with a HorNet-GF backbone on generated data.
# No arguments. Writes to work_dirs/quickstart in the checkout; a second run repeats everything except creating the environment.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

config=configs/seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py
work=work_dirs/quickstart
needed_ratio=3

[ "$#" -eq 0 ] || mmfreq_die "tools/quickstart.sh takes no arguments, got: $*" 'To train a config of your choice, run tools/dist_train.sh CONFIG GPUS'

step() { mmfreq_log "--- step $1 of 5, after $SECONDS s: $2"; }
trap 'status=$?; [ "$status" -eq 0 ] || mmfreq_log "quickstart failed (exit status $status): see the messages above."' EXIT

step 1 'environment'
mmfreq_ensure_environment
environment="the active Python, $MMFREQ_PYTHON (not changed)"
venv="$(mmfreq_chosen_own)"
if [ -n "$venv" ]; then
    mmfreq_ensure_installed "$venv" this
    environment="source $(printf '%q' "$venv")/bin/activate    (then \`import mmfreq\` works from any folder)"
fi
# the deprecation warnings of the libraries would hide the messages that matter
export PYTHONUTF8=1 PYTHONWARNINGS="${PYTHONWARNINGS:-ignore}"

# from the root with relative paths: --cfg-options drops spaces and splits at commas, and the path of the checkout may have both
cd "$MMFREQ_ROOT"
mkdir -p "$work"

step 2 'generating toy data in the layout of ADE20K'
"$MMFREQ_PYTHON" tools/make_toy_dataset.py ade20k --out "$work/toy" --overwrite
data=()
for split in train val test; do data+=("${split}_dataloader.dataset.data_root=$work/toy"); done

step 3 "training $config"
rm -rf "$work/run" "$work/images"
"$MMFREQ_PYTHON" tools/train.py "$config" --work-dir "$work/run" --cfg-options "${data[@]}"
checkpoint="$(cat "$work/run/last_checkpoint")"

step 4 'testing'
"$MMFREQ_PYTHON" tools/test.py "$config" "$checkpoint" --work-dir "$work/run/test" --baseline --cfg-options "${data[@]}" |
    tee "$work/test.txt"

step 5 'drawing predictions'
"$MMFREQ_PYTHON" tools/infer.py "$config" "$checkpoint" "$work/toy/images/validation" --truth "$work/toy/annotations/validation" \
    --out "$work/images" --cfg-options "${data[@]}"

"$MMFREQ_PYTHON" - "$work" "$needed_ratio" "$checkpoint" "$SECONDS" "$environment" <<'CLOSING'
import re
import sys
from pathlib import Path

work, needed, checkpoint, seconds, environment = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
report = (work / 'test.txt').read_text(encoding='utf-8')
scores = re.search(r'^mIoU ([\d.]+), constant predictor ([\d.]+), ratio', report, re.MULTILINE)
if not scores:
    sys.exit(f'[mmfreq] error: tools/test.py did not print "mIoU ..., constant predictor ..., ratio ...". Its output: {work}/test.txt')
miou, constant = map(float, scores.groups())
panels = sorted((work / 'images').rglob('*_panel.png'))
if not panels:
    sys.exit(f'[mmfreq] error: tools/infer.py did not write *_panel.png to {work}/images')
print('\n' + '=' * 80)
table = re.search(r'^[^\n]*IoU by class.*?(?=^mIoU )', report, re.MULTILINE | re.DOTALL)
print(table.group().rstrip() if table else '')
print(f"""
mIoU         {miou:.2f} on the toy validation set
constant     {constant:.2f} is the best mIoU of one class everywhere; the ratio is {miou / constant:.1f}, expected at least {needed:g}
checkpoint   {Path(checkpoint).resolve()}
image        {panels[0].resolve()}
             (input, ground truth and prediction side by side; the folder has {len(panels)} of them)
time         {seconds // 60} min {seconds % 60} s, including the set-up
environment  {environment}

Next: tools/dist_train.sh configs/upernet_hornet_ade20k.py 8    (README.md describes where to put the data)""")
print('=' * 80)
if miou < needed * constant:
    sys.exit(f'[mmfreq] error: mIoU {miou:.2f} is below {needed:g} times the constant predictor\'s {constant:.2f}')
CLOSING
