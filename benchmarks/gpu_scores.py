"""Parts `golden` and `camvid` of `gpu.py`: how right the models are, where the other parts say how fast."""

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mmfreq  # noqa: E402
from benchmarks.compare_backbones import class_table, curve_table, gmacs, score_table  # noqa: E402
from benchmarks.harness.tables import Table  # noqa: E402
from benchmarks.training_runs import models_of, recipe  # noqa: E402
from mmfreq.errors import UserError  # noqa: E402
from mmfreq.testing.golden import golden_inputs, golden_state, read_golden, worst_error  # noqa: E402

# arch -> (golden file, arguments of the backbone)
GOLDEN = {
    'hornet-tiny-gf': ('hornet__hornet_tiny_gf', {}),
    'gfnet-ti': ('gfnet__gfnet-ti', {}),
    'gfnet-h-ti': ('gfnet__gfnet-h-ti', {}),
    'dfformer-s18': ('dfformer__dfformer_s18_seg', dict(img_size=512)),
    'cdfformer-s18': ('dfformer__cdfformer_s18_seg', dict(img_size=512)),
    'affnet-et': ('affnet__affnet_et', {}),
}
MAX_ERROR = 1e-4  # on a GPU, relative; the limits on a CPU are those of mmfreq/testing/golden.py


def golden(args, clock) -> tuple[list, list]:
    """Relative errors of the stages in float32; the convolutions do not use TF32."""
    rows = []
    for arch in clock.fitting(args.golden):
        errors = golden_errors(arch, args.device)
        largest = max(errors.values())
        rows.append((arch, str(len(errors)), f'{largest:.1e}', 'reached' if largest < MAX_ERROR else 'missed'))
    header = ('arch', 'inputs', 'largest relative error of a stage', f'target: less than {MAX_ERROR:g}')
    return [Table('stages against the golden numbers, float32', header, tuple(rows))], []


@torch.no_grad()
def golden_errors(arch: str, device: str) -> dict[tuple[int, ...], float]:
    """{shape of the input: relative error of the worst stage} in float32."""
    name, options = GOLDEN[arch]
    file = read_golden(ROOT / 'tests/golden', name)
    model = mmfreq.build_backbone(arch, **options).eval()
    mmfreq.load_weights(model, golden_state(file['state_dict']))
    model.to(device)
    errors = {}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for case in file['cases']:
            if case['what'] == 'stages' and not case['training']:
                outputs = model(*(x.to(device) for x in golden_inputs(case)))
                errors[tuple(case['input_shape'])] = worst_error(outputs, case['outputs'][: len(outputs)])[0]
    return errors


def camvid(args, clock) -> tuple[list, list]:
    """mIoU of backbones trained on CamVid; what was trained before is not trained again."""
    if not Path(args.data).is_dir():
        return [], [f'not measured: there is no data at {args.data}, see --data']
    done, notes = [], []
    for model in clock.fitting(models_of(args), lambda model: model.name):
        try:
            model.complete()
            done.append(model)
        except (UserError, subprocess.CalledProcessError) as reason:
            notes.append(f'{model.name}: not measured, {reason}')
    if not done:
        return [], notes
    cells = ((f'`{model.name}`', f'{model.size.params / 1e6:.2f}', f'{gmacs(model.size.macs):.1f}') for model in done)
    sizes = Table('sizes, without the auxiliary head', ('model', 'params, M', 'GMACs of a crop'), tuple(cells))
    return [score_table(done), sizes, class_table(done), curve_table(done)], [recipe(done[0]), *notes]
