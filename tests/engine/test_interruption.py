"""Runs that are killed, and go on: what they compute in the end is, bit for bit, what an undisturbed run computes."""

import json
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmfreq.compat.safe_load import read_checkpoint
from mmfreq.datasets.toy import write_toy_ade20k
from mmfreq.engine.resume import latest_checkpoint
from mmfreq.testing.toy_segmentation import toy_segmentation_config, toy_segmentor
from mmfreq.torchrun import STATUS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name('_runs_to_kill.py')

ITERATIONS = 40
SHORT = {'resume': 'auto', 'cfg_options': {'train_cfg.max_iters': 16}}
DEATHS = 8  # of each configuration
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
    server = subprocess.Popen(
        [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
        env={'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PATH': '/usr/bin:/bin', 'HOME': '/tmp'},
    )  # fmt: skip

    def run(request):
        server.stdin.write(json.dumps(request) + '\n')
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    yield run
    server.stdin.close()
    server.wait(60)


def config(folder, **changes):
    """Everything that has a state: drop path, dropout, augmentation, schedule, averaged weights."""
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
    """`undisturbed(name)`: folder of a config, with the run that nothing disturbs in `whole/`."""
    made = {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name.replace(' ', '_'))
            write_toy_ade20k(folder / 'data', train=8, val=2, size=(64, 64), seed=0)
            text = ''.join(f'{key} = {value!r}\n' for key, value in CONFIGS[name](folder).items())
            (folder / 'toy.py').write_text(text)
            result = go(runs, folder, 'whole')
            assert result['status'] == 0, result['printed']
            assert sorted(losses(folder / 'whole')) == list(range(1, ITERATIONS + 1))
            made[name] = folder
        return made[name]

    return make


def go(runs, folder, name, **request):
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


IN_ITERATIONS = ('in_forward', 'after_the_step')
IN_SAVING = ('in_a_checkpoint', 'before_the_rename', 'after_the_rename', 'in_the_note')


def kills(seed, count):
    """Seeded deaths: where, in the how-many-th call; every fourth one at a moment that has to do with nothing."""
    generator = random.Random(seed)
    points = [*IN_ITERATIONS, *IN_SAVING, 'in_validation']
    generator.shuffle(points)
    for number in range(count):
        point = points[number % len(points)]
        if number % 4 == 3:
            yield {'after': generator.uniform(0.0, 0.6)}
        else:
            yield {'point': point, 'count': generator.randint(3, 5) if point in IN_ITERATIONS else generator.randint(1, 2)}


@pytest.mark.parametrize(('name', 'seed'), [('plain', 0), ('workers and accumulation', 1), ('epochs', 2)])
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(runs, undisturbed, name, seed):
    folder = undisturbed(name)
    for death in kills(seed, DEATHS):
        result = go(runs, folder, 'killed', **death)
        assert result['status'] == -signal.SIGKILL, f'{death}\n{result["printed"][-5000:]}'
    end = go(runs, folder, 'killed')
    assert end['status'] == 0, end['printed'][-5000:]
    assert_same_end(folder, 'killed')
    assert not list((folder / 'killed').glob('.*.part'))
    if name == 'workers and accumulation':  # max_keep_ckpts=1 and one best one, whatever happened between
        kept = sorted(path.name.split('_')[0] for path in (folder / 'killed').glob('*.pth'))
        assert kept == ['best', 'iter'], kept


@pytest.mark.parametrize(
    ('name', 'request_to_stop'),
    [
        ('plain', {'point': 'in_forward', 'count': 7}),
        ('plain', {'point': 'in_validation', 'count': 1}),
        ('plain', {'after': 0.2, 'signal': 'SIGUSR1'}),
        ('workers and accumulation', {'point': 'in_forward', 'count': 5}),  # between two steps of the optimizer
        ('workers and accumulation', {'after': 0.3}),
        ('epochs', {'point': 'in_forward', 'count': 7}),  # within an epoch
        ('epochs', {'point': 'in_forward', 'count': 6}),  # in its last iteration
        ('epochs', {'point': 'in_validation', 'count': 1}),
    ],
)
def test_a_preempted_run_saves_and_says_so_and_goes_on(runs, undisturbed, tmp_path, name, request_to_stop):
    folder, work = undisturbed(name), f'stopped_{tmp_path.name}'
    result = go(runs, folder, work, **({'signal': 'SIGTERM'} | request_to_stop))
    assert result['status'] == STATUS == 75, result['printed']
    told = re.search(
        r'Asked to stop by SIG\w+ after iteration (\d+): saved (.*interrupted_iter_\d+\.pth); go on with --resume',
        result['printed'],
    )
    path, content = latest_checkpoint(folder / work)
    assert told and str(path) == told[2] and content['meta']['iter'] == int(told[1])
    if 'count' in request_to_stop and request_to_stop['point'] == 'in_forward':
        count = request_to_stop['count']
        assert int(told[1]) == count + (name.startswith('workers') and count % 2)
    end = go(runs, folder, work)
    assert end['status'] == 0, end['printed']
    was_due = int(told[1]) % VALIDATED_EVERY[name] == 0
    assert was_due >= (request_to_stop.get('point') == 'in_validation')
    assert ('due for validation, which was not finished' in end['printed']) == was_due
    assert_same_end(folder, work)
    assert not path.exists()  # the next regular checkpoint makes it superfluous


def test_a_full_disk_is_told_and_costs_no_checkpoint(runs, undisturbed):
    folder = undisturbed('plain')
    result = go(runs, folder, 'full', point='disk_full', count=3)
    assert result['status'] == 2, result['printed']
    assert re.search(
        r'error: no room for .*full/\S+\.pth \(\d+ MiB\): No space left on device\. Earlier checkpoints', result['printed']
    )
    saved = list((folder / 'full').glob('*.pth'))
    assert saved and all(read_checkpoint(path) for path in saved)
    assert go(runs, folder, 'full', options=SHORT)['status'] == 0
    assert_same_losses(folder, 'full', 16)


def test_a_torn_checkpoint_of_before_is_passed_over(runs, undisturbed):
    """As mmengine's own hook leaves it: half a file under the final name, and named by the note."""
    folder = undisturbed('plain')
    assert go(runs, folder, 'torn', point='in_forward', count=12)['status'] == -signal.SIGKILL
    path, _ = latest_checkpoint(folder / 'torn')
    path.write_bytes(path.read_bytes()[:-5000])
    end = go(runs, folder, 'torn', options=SHORT)
    assert end['status'] == 0 and f'{path.name} (' in end['printed'] and 'truncated' in end['printed']
    assert_same_losses(folder, 'torn', 16)
