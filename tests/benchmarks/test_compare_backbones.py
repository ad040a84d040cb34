"""benchmarks/compare_backbones.py: its page from toy data, resumed and complete runs, and which models it calls better."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmfreq.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / 'tools' / 'train.py'
TOY = ROOT / 'configs/seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py'
SUFFIX = '_upernet_1xb8-800_camvid-180x240.py'
BACKBONES = [*ROOT.glob(f'configs/seg/*/*{SUFFIX}'), *ROOT.glob(f'benchmarks/camvid/*-dim*{SUFFIX}')]
DECODERS = [path for path in ROOT.glob('benchmarks/camvid/*_camvid-180x240.py') if path not in BACKBONES]
SHORT = """\
_base_ = {base!r}
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
train_dataloader = dict(batch_size=2)
model = dict(
    backbone=dict(_delete_=True, type='mmfreq.{type}', arch='{arch}', img_size=128),
    decode_head=dict(in_channels={channels}),
    auxiliary_head=dict(in_channels={channels}[2]),
)
"""
MICRO = (('HorNet', 'hornet-micro', [16, 32, 64, 128]), ('DFFormer', 'dfformer-micro', [16, 32, 48, 64]))


@pytest.fixture
def comparison(benchmark_script):
    return benchmark_script('compare_backbones')


@pytest.fixture
def runs(benchmark_script):
    return benchmark_script('training_runs')


@pytest.fixture
def configs(tmp_path):
    """A HorNet and a DFFormer, four iterations each."""
    paths = []
    for type_name, arch, channels in MICRO:
        paths.append(tmp_path / f'{arch}_upernet_1xb2-4_toy.py')
        paths[-1].write_text(SHORT.format(base=str(TOY), type=type_name, arch=arch, channels=channels))
    return paths


def trained_in_this_process(command, *args, run=subprocess.run, **options):
    """Run `tools/train.py` in this process, which saves its imports; other programs run as usual."""
    if command[:2] != [sys.executable, str(TRAIN)]:
        return run(command, *args, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', command[1:])
        patch.syspath_prepend(TRAIN.parent)
        runpy.run_path(command[1], run_name='__main__')


def scored(runs, name, *scores):
    return runs.Model(name, None, tuple(SimpleNamespace(seed=seed, scores={'mIoU': score}) for seed, score in enumerate(scores)))


def model_of(runs, path):
    return runs.Model(path.name.removesuffix(SUFFIX), path, (runs.Run(path, 0, Path()),))


def test_models_whose_seeds_overlap_are_not_ranked(comparison, runs):
    models = [scored(runs, *each) for each in (('low', 1.0, 2.0), ('wide', 1.5, 9.0), ('high', 8.0, 8.5))]
    table = comparison.score_table(models)
    assert table.rows[2] == ('`high`', '8.00', '8.50', '8.25', '`low`') and [row[-1] for row in table.rows[:2]] == ['-', '-']
    (low, high) = comparison.score_table([scored(runs, 'low', 1.0), scored(runs, 'high', 8.0)]).rows
    assert (low[-1], high[-1]) == ('-', '-')  # one seed ranks nothing


def test_names_are_what_distinguishes_the_configs(runs):
    assert runs.short_names(['a_upernet_1x', 'b_upernet_1x']) == ['a', 'b']
    assert runs.short_names(['a_fpn_1x', 'a_upernet_1x']) == ['fpn', 'upernet']
    assert runs.short_names(['a_fpn_1x']) == ['a_fpn_1x']


def test_costs_are_relative_to_the_first_model(comparison):
    from benchmarks.harness.measure import GroupResult, Run
    from benchmarks.harness.memory import Memory
    from mmfreq.analysis.flops import Macs

    part = SimpleNamespace(params=2_000_000, macs=Macs(conv_matmul=10**9, fft=10**8, other=10**8))
    size = SimpleNamespace(modules={'backbone': part}, params=3_000_000, macs=Macs(conv_matmul=2 * 10**9))
    models = [SimpleNamespace(name=name, size=size) for name in 'abc']
    timed = [
        Run(None, [2.0, 4.0], Memory(2**20), cpu_seconds=[4.0, 4.0]),
        Run(None, [1.0, 2.0], Memory(2**21), cpu_seconds=[8.0, 8.0]),
    ]
    first, second, failed = comparison.cost_table(models, GroupResult('', [*timed, Run(None)]), 'backbone').rows
    assert first == ('`a`', '2.00', '1.100', '3.00', '2.000', '1.00x [1.00, 1.00]', '1.00x [1.00, 1.00]', '1')
    assert second[5:] == ('0.50x [0.50, 0.50]', '2.00x [2.00, 2.00]', '2') and failed[5:] == ('-', '-', '-')


def test_all_configs_on_camvid_have_one_recipe(runs, tmp_path):
    assert (len(BACKBONES), len(DECODERS)) == (9, 3)
    models = [model_of(runs, path) for path in (*BACKBONES, *DECODERS)]
    runs.check_recipes(models)
    other = tmp_path / 'other.py'
    other.write_text(f'_base_ = {str(BACKBONES[0])!r}\noptim_wrapper = dict(optimizer=dict(lr=1.0))\n')
    with pytest.raises(UserError, match=r'other\.py .* different optim_wrapper\.'):
        runs.check_recipes([*models, model_of(runs, other)])


@pytest.mark.slow
def test_the_backbones_on_camvid_have_equal_sizes(comparison, runs):
    """Within 10 % of HorNet's parameters and multiply-adds, for one crop."""
    costs = {model.name: model.size.modules['backbone'] for model in (model_of(runs, path) for path in BACKBONES)}
    sizes = {name: (cost.params, comparison.gmacs(cost.macs)) for name, cost in costs.items()}
    for name, found in sizes.items():
        assert found == pytest.approx(sizes['hornet-dim32-7x7'], rel=0.1), name


@pytest.mark.slow
def test_the_decoders_on_camvid_differ_in_the_head(runs):
    sizes = {path.name.split('_')[1]: model_of(runs, path).size.modules for path in DECODERS}
    assert len({size['backbone'].params for size in sizes.values()}) == 1
    heads = {name: size['decode_head'].params for name, size in sizes.items()}
    assert heads['gnconv-7x7-upernet'] < heads['horfpn-7x7-upernet'] < heads['upernet']


def test_runs_of_another_version_are_refused(runs, configs, tmp_path):
    run = runs.Run(configs[0], 0, tmp_path)
    (tmp_path / runs.SCORES).write_text(json.dumps({'config': 'other'}))
    with pytest.raises(UserError, match=r'another version of .*hornet-micro.*another --work-dir'):
        run.complete()


@pytest.mark.parametrize(('seed', 'iteration'), [(1, 4), (0, 2)])
def test_a_checkpoint_of_another_run_is_refused(runs, configs, tmp_path, seed, iteration):
    import torch

    run = runs.Run(configs[0], 0, tmp_path)
    torch.save({'meta': {'seed': seed, 'iter': iteration}, 'state_dict': {}}, tmp_path / 'iter.pth')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/iter.pth')
    with pytest.raises(UserError, match=f'seed 0 and iteration 4 .*found seed {seed} and iteration {iteration}'):
        run.check_checkpoint()


@pytest.mark.slow
def test_page_from_toy_data(comparison, runs, configs, tmp_path, monkeypatch, capfd):
    from mmfreq.datasets.toy import write_toy_ade20k

    write_toy_ade20k(tmp_path / 'toy', 8, 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, 'run', trained_in_this_process)
    shared = [*map(str, configs), '--data', str(tmp_path / 'toy'), '--rounds', '2']
    comparison.main([*shared, '--seeds', '1', '--train-only'])  # as one of several commands
    assert not (tmp_path / 'page.md').exists()
    folder = tmp_path / 'work_dirs/compare_backbones' / configs[0].stem
    interrupted = folder / 'seed1'
    (interrupted / runs.SCORES).unlink()
    (interrupted / 'iter_4.pth').unlink()
    (interrupted / 'last_checkpoint').write_text(str(interrupted / 'iter_2.pth'))
    capfd.readouterr()
    comparison.main([*shared, '--out', 'pages/page.md', '--plot', 'plot.png', '--title', 'Toy'])
    assert 'resumed' in ''.join(capfd.readouterr()) and (tmp_path / 'plot.png').read_bytes().startswith(b'\x89PNG')
    text = (tmp_path / 'pages/page.md').read_text()
    assert text.startswith('# Toy\n') and str(tmp_path) not in text and '](../plot.png)' in text
    assert 'by one recipe: 4 iterations of 2 crops of 128x128' in text and 'in one of 3 comparisons' in text
    first, second = (runs.Run(configs[0], seed, folder / f'seed{seed}') for seed in (0, 1))
    assert second.curve.keys() == {2, 4} and second.curve[4] == pytest.approx(second.scores['mIoU'], abs=0.02)
    scores = first.scores['mIoU'], second.scores['mIoU']
    assert f'| `hornet-micro` | {scores[0]:.2f} | {scores[1]:.2f} | {sum(scores) / 2:.2f} |' in text
    ground = re.search(r'^\| ground \| ([\d., ]+) \|', text, re.MULTILINE)[1]
    assert ground == f'{first.scores["IoU"]["ground"]:.1f}, {second.scores["IoU"]["ground"]:.1f}'
    assert f'| `hornet-micro` | {first.curve[2]:.1f}, {second.curve[2]:.1f} | ' in text
    before = sorted(tmp_path.glob('work_dirs/**/*.log'))
    comparison.main([*shared, '--train-only'])
    assert sorted(tmp_path.glob('work_dirs/**/*.log')) == before  # nothing was trained again
