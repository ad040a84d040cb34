#!/usr/bin/env bash
# From Python alone to a trained and tested UPerNet with a HorNet-GF backbone, on toy data made on the spot. No arguments.
# Everything is written to work_dirs/quickstart in the checkout; a second run makes all of it anew, except the environment.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

config=configs/seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py
work=work_dirs/quickstart
needed_ratio=3

[ "$#" -eq 0 ] || mmfreq_die "tools/quickstart.sh takes no arguments, got: $*" 'To train a config of your choice: tools/dist_train.sh CONFIG GPUS'

step() { mmfreq_say "--- $1 of 5, after $SECONDS s: $2"; }
trap 'status=$?; [ "$status" -eq 0 ] || mmfreq_say "quickstart did not finish (exit status $status): see above."' EXIT

step 1 'environment'
mmfreq_ensure_environment
# the libraries' own deprecation warnings would bury what matters here
export PYTHONUTF8=1 PYTHONWARNINGS="${PYTHONWARNINGS:-ignore}"

# from the root with relative paths: --cfg-options drops spaces and splits at commas, and the checkout's own path may hold both
cd "$MMFREQ_ROOT"
mkdir -p "$work"

step 2 'toy data in the layout of ADE20K'
"$MMFREQ_PYTHON" tools/make_toy_dataset.py ade20k --out "$work/toy" --overwrite
data=()
for split in train val test; do data+=("${split}_dataloader.dataset.data_root=$work/toy"); done

step 3 "training $config"
rm -rf "$work/run" "$work/pictures"
"$MMFREQ_PYTHON" tools/train.py "$config" --work-dir "$work/run" --cfg-options "${data[@]}"
checkpoint="$(cat "$work/run/last_checkpoint")"

step 4 'testing'
"$MMFREQ_PYTHON" tools/test.py "$config" "$checkpoint" --work-dir "$work/run/test" --baseline --cfg-options "${data[@]}" |
    tee "$work/test.txt"

step 5 'drawing predictions'
"$MMFREQ_PYTHON" tools/infer.py "$config" "$checkpoint" "$work/toy/images/validation" --truth "$work/toy/annotations/validation" \
    --out "$work/pictures" --cfg-options "${data[@]}"

"$MMFREQ_PYTHON" - "$work" "$needed_ratio" "$checkpoint" "$SECONDS" <<'CLOSING'
import re
import sys
from pathlib import Path

work, needed, checkpoint, seconds = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3], int(sys.argv[4])
report = (work / 'test.txt').read_text(encoding='utf-8')
scores = re.search(r'^mIoU ([\d.]+), constant predictor ([\d.]+), ratio', report, re.MULTILINE)
if not scores:
    sys.exit(f'[mmfreq] error: tools/test.py printed no line "mIoU ..., constant predictor ..., ratio ...": see {work}/test.txt')
miou, constant = map(float, scores.groups())
panels = sorted((work / 'pictures').rglob('*_panel.png'))
if not panels:
    sys.exit(f'[mmfreq] error: tools/infer.py wrote no *_panel.png into {work}/pictures')
print('\n' + '=' * 80)
table = re.search(r'^[^\n]*IoU by class.*?(?=^mIoU )', report, re.MULTILINE | re.DOTALL)
print(table.group().rstrip() if table else '')
print(f"""
mIoU        {miou:.2f} on the toy validation set
constant    {constant:.2f}: the best that one class everywhere can do; the ratio is {miou / constant:.1f}, at least {needed:g} is expected
checkpoint  {Path(checkpoint).resolve()}
picture     {panels[0].resolve()}
            (image, truth and prediction side by side; {len(panels)} such pictures are in its folder)
time        {seconds // 60} min {seconds % 60} s, the set-up included

Next: tools/dist_train.sh configs/upernet_hornet_ade20k.py 8    (README.md says where the data go)""")
print('=' * 80)
if miou < needed * constant:
    sys.exit(f'[mmfreq] error: mIoU {miou:.2f} is below {needed:g} times the constant predictor\'s {constant:.2f}')
CLOSING
