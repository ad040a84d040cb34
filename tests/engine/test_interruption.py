"""Runs that are killed and resumed give the result of an uninterrupted run, bit for bit."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmfreq.compat.safe_load import read_checkpoint
from mmfreq.datasets.toy import write_toy_ade20k
from mmfreq.engine.resume.start import latest_checkpoint
from mmfreq.testing.toy_segmentation import toy_segmentation_config, toy_segmentor
from mmfreq.torchrun import STATUS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name('_runs_to_kill.py')

ITERATIONS = 24
SHORT = 8  # iterations, for tests that do not compare the end
SHORTER = {'resume': 'auto', 'cfg_options': {'train_cfg.max_iters': SHORT}}
AUGMENTED = [
    {'type': 'LoadImageFromFile'},
    {'type': 'LoadAnnotations', 'reduce_zero_label': True},
    {'type': 'RandomResize', 'scale': (96, 64), 'ratio_range': (0.7, 1.5), 'keep_ratio': True},
    {'type': 'RandomCrop', 'crop_size': (64, 64), 'cat_max_ratio': 0.75},
    {'type': 'RandomFlip', 'prob': 0.5},
    {'type': 'PhotoMetricDistortion'},
    {'type': 'PackSegInputs'},
]


@pytest.fixture(scope='module')
def runs():
    """A function that runs a request of `_runs_to_kill.py`."""
    env = {'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}', 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'HOME': '/tmp'}
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'stderr': subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, SERVER], text=True, cwd=ROOT, env=env | {'PATH': '/usr/bin:/bin'}, **pipes)

    def run(request):
        server.stdin.write(json.dumps(request) + '\n')
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    yield run
    server.stdin.close()
    server.wait(60)


def config(folder, **changes):
    """A config with everything that has a state: drop path, dropout, augmentation, schedule, averaged weights."""
    model = toy_segmentor('GN')
    model['backbone'] |= {'drop_path_rate': 0.3}
    model['decode_head'] |= {'dropout_ratio': 0.1}
    cfg = toy_segmentation_config(folder / 'data', max_iters=ITERATIONS, model=model, custom_hooks=[{'type': 'EMAHook'}])
    cfg['train_dataloader']['dataset']['pipeline'] = AUGMENTED
    cfg['train_cfg'] |= {'val_interval': 4}
    cfg['param_scheduler'] = [
        {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 5},
        {'type': 'PolyLR', 'power': 1.0, 'by_epoch': False, 'begin': 5, 'end': ITERATIONS},
    ]
    cfg['default_hooks']['checkpoint'] |= {'interval': 2}
    for name, change in changes.items():
        cfg[name] = {**cfg[name], **change}
    return cfg


def plain(folder):
    return config(folder)


def workers_and_accumulation(folder):
    cfg = config(folder, train_dataloader={'num_workers': 2, 'persistent_workers': True}, optim_wrapper={'accumulative_counts': 2})
    cfg['default_hooks']['checkpoint'] |= {'interval': 4, 'max_keep_ckpts': 1, 'save_best': 'mIoU'}
    return cfg


def epochs(folder):
    cfg = config(
        folder, train_dataloader={'sampler': {'type': 'DefaultSampler', 'shuffle': True}, 'num_workers': 1, 'batch_size': 4}
    )
    cfg['train_cfg'] = {'by_epoch': True, 'max_epochs': ITERATIONS // 2, 'val_interval': 4}
    cfg['default_hooks']['checkpoint'] |= {'by_epoch': True, 'interval': 1}
    return cfg


VALIDATED_EVERY = {'plain': 4, 'workers and accumulation': 4, 'epochs': 8}  # iterations
CONFIGS = {'plain': plain, 'workers and accumulation': workers_and_accumulation, 'epochs': epochs}


@pytest.fixture(scope='module')
def undisturbed(runs, tmp_path_factory):
    """`undisturbed(name)`: folder of a config, with an uninterrupted run in `whole/`."""
    made = {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name.replace(' ', '_'))
            write_toy_ade20k(folder / 'data', train=8, val=2, size=(64, 64), seed=0)
            text = ''.join(f'{key} = {value!r}\n' for key, value in CONFIGS[name](folder).items())
            (folder / 'toy.py').write_text(text)
            result = start(runs, folder, 'whole')
            assert result['status'] == 0, result['printed']
            assert sorted(losses(folder / 'whole')) == list(range(1, ITERATIONS + 1))
            made[name] = folder
        return made[name]

    return make


def start(runs, folder, name, **request):
    work_dir = folder / name
    request |= {'config': str(folder / 'toy.py'), 'work_dir': str(work_dir), 'out': str(folder / f'{name}.txt')}
    return runs({'options': {'resume': 'auto'}} | request)


def losses(work_dir):
    """Iteration -> every loss that was logged for it, over all starts of the run."""
    found = {}
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # a kill may tear the last line
                continue
            if 'loss' in entry:
                found.setdefault(entry.get('iter', entry['step']), set()).add((entry['loss'], entry['lr']))
    return found


def validations(work_dir):
    """For each start of the run, the iterations whose validation was completed."""
    found = []
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        found.append([entry['step'] for entry in entries if 'mIoU' in entry])
    return found


def assert_same_losses(folder, name, last=ITERATIONS):
    """The same losses and rates wherever they were logged."""
    one, other = losses(folder / 'whole'), losses(folder / name)
    assert {step: values for step, values in other.items() if values != one[step]} == {}
    assert max(other) == last


def assert_same_end(folder, name):
    """The same losses, and the same weights, averages, moments and schedule at the end."""
    assert_same_losses(folder, name)
    (_, end), (_, expected) = (latest_checkpoint(folder / each) for each in (name, 'whole'))
    for part in ('state_dict', 'ema_state_dict'):
        assert end[part].keys() == expected[part].keys() and len(end[part]) > 100
        assert all(torch.equal(end[part][key], value) for key, value in expected[part].items())
    moments, others = end['optimizer']['state'], expected['optimizer']['state']
    assert moments.keys() == others.keys() and all(torch.equal(moments[k]['exp_avg_sq'], others[k]['exp_avg_sq']) for k in others)
    assert [each['last_step'] for each in end['param_schedulers']] == [each['last_step'] for each in expected['param_schedulers']]


def at(point, count=1):
    """A death in the `count`-th call of a point of `_runs_to_kill.py`."""
    return {'point': point, 'count': count}


# Each config is killed at arbitrary moments, and at the points that concern what it adds; every point occurs.
DEATHS = {
    'plain': [{'after': 0.1}, at('in_a_checkpoint', 2), at('in_validation'), at('before_the_rename', 3)],
    'workers and accumulation': [  # between two steps of the optimizer; between the latest and the best checkpoint
        *({'after': 0.2}, at('in_forward', 6), at('after_the_rename', 2), at('in_the_note'), at('after_the_step', 3)),
    ],
    'epochs': [  # within an epoch, and at its end
        *({'after': 0.05}, at('in_forward', 4), at('in_validation', 2), at('in_the_note', 2), at('after_the_step', 3)),
    ],
}


@pytest.mark.parametrize('name', DEATHS)
def test_repeatedly_killed_run_equals_uninterrupted_run(runs, undisturbed, name):
    folder = undisturbed(name)
    for death in DEATHS[name]:
        result = start(runs, folder, 'killed', **death)
        assert result['status'] == -signal.SIGKILL, f'{death}\n{result["printed"][-5000:]}'
    end = start(runs, folder, 'killed')
    assert end['status'] == 0, end['printed'][-5000:]
    assert_same_end(folder, 'killed')
    assert not list((folder / 'killed').glob('.*.part'))
    if name == 'workers and accumulation':  # max_keep_ckpts=1, and the best one
        kept = sorted(path.name.split('_')[0] for path in (folder / 'killed').glob('*.pth'))
        assert kept == ['best', 'iter'], kept


@pytest.mark.parametrize(
    ('name', 'request_to_stop'),
    [
        ('plain', at('in_forward', 7) | {'signal': 'SIGUSR1'}),
        ('plain', at('in_validation')),
        ('workers and accumulation', at('in_forward', 5)),  # between two steps of the optimizer
        ('workers and accumulation', {'after': 0.15}),
        ('epochs', at('in_forward', 7)),  # within an epoch
        ('epochs', at('in_forward', 6)),  # in its last iteration
        ('epochs', at('in_validation')),
    ],
)
def test_preempted_run_saves_and_resumes(runs, undisturbed, tmp_path, name, request_to_stop):
    folder, work = undisturbed(name), f'stopped_{tmp_path.name}'
    result = start(runs, folder, work, **({'signal': 'SIGTERM'} | request_to_stop))
    assert result['status'] == STATUS == 75, result['printed']
    path, content = latest_checkpoint(folder / work)
    stopped = content['meta']['iter']
    expected = f'{request_to_stop.get("signal", "SIGTERM")}.*{stopped}.*{re.escape(str(path))}.*--resume'
    assert path.name == f'interrupted_iter_{stopped}.pth' and re.search(expected, result['printed']), result['printed']
    if 'count' in request_to_stop and request_to_stop['point'] == 'in_forward':
        count = request_to_stop['count']
        assert stopped == count + (name.startswith('workers') and count % 2)
    end = start(runs, folder, work)
    assert end['status'] == 0, end['printed']
    was_due = stopped % VALIDATED_EVERY[name] == 0
    assert was_due >= (request_to_stop.get('point') == 'in_validation')
    assert (stopped in validations(folder / work)[-1]) == was_due
    assert_same_end(folder, work)
    assert not path.exists()  # the next regular checkpoint replaces it


def test_full_disk_loses_no_checkpoint(runs, undisturbed):
    folder = undisturbed('plain')
    result = start(runs, folder, 'full', **at('disk_full', 3))
    assert result['status'] == 2, result['printed']
    assert re.search(r'error: .*full/\S+\.pth .*MiB.*No space left on device', result['printed']), result['printed']
    saved = list((folder / 'full').glob('*.pth'))
    assert saved and all(read_checkpoint(path) for path in saved)
    assert start(runs, folder, 'full', options=SHORTER)['status'] == 0
    assert_same_losses(folder, 'full', SHORT)


def test_truncated_checkpoint_is_skipped(runs, undisturbed):
    """As mmengine's hook leaves it: half a file under the final name, which the note names."""
    folder = undisturbed('plain')
    assert start(runs, folder, 'torn', **at('in_forward', 5))['status'] == -signal.SIGKILL
    path, _ = latest_checkpoint(folder / 'torn')
    path.write_bytes(path.read_bytes()[:-5000])
    end = start(runs, folder, 'torn', options=SHORTER)
    assert end['status'] == 0 and f'{path.name} (' in end['printed'] and 'truncated' in end['printed']
    assert_same_losses(folder, 'torn', SHORT)
