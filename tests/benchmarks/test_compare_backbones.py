"""benchmarks/compare_backbones.py: its page from toy data, resumed and complete runs, and which models it calls better."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / 'tools' / 'train.py'
TOY = ROOT / 'configs/seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py'
SHORT = """\
_base_ = {base!r}
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
train_dataloader = dict(batch_size=2)
model = dict(backbone=dict(_delete_=True, type='mmfreq.{type}', arch='{arch}', img_size=128))
"""


@pytest.fixture
def comparison(benchmark_script):
    return benchmark_script('compare_backbones')


@pytest.fixture
def configs(tmp_path):
    """A HorNet and a DFFormer, four iterations each."""
    paths = []
    for type_name, arch in (('HorNet', 'hornet-micro'), ('DFFormer', 'dfformer-micro')):
        paths.append(tmp_path / f'{arch}_upernet_1xb2-4_toy.py')
        text = SHORT.format(base=str(TOY), type=type_name, arch=arch)
        if arch == 'dfformer-micro':
            text += "model['decode_head'], model['auxiliary_head'] = dict(in_channels=[16, 32, 48, 64]), dict(in_channels=48)\n"
        paths[-1].write_text(text)
    return paths


def trained_in_this_process(command, *args, run=subprocess.run, **options):
    """Run `tools/train.py` in this process, which saves its imports; other programs run as usual."""
    if command[:2] != [sys.executable, str(TRAIN)]:
        return run(command, *args, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', command[1:])
        patch.syspath_prepend(TRAIN.parent)
        runpy.run_path(command[1], run_name='__main__')


def scored(comparison, name, *scores):
    runs = [SimpleNamespace(seed=seed, scores={'mIoU': score}) for seed, score in enumerate(scores)]
    return comparison.Model(name, None, tuple(runs))


def test_models_whose_seeds_overlap_are_not_ranked(comparison):
    models = [scored(comparison, *each) for each in (('low', 1.0, 2.0), ('wide', 1.5, 9.0), ('high', 8.0, 8.5))]
    rows = {row[0]: row for row in comparison.score_table(models).rows}
    assert list(rows) == ['`high`', '`wide`', '`low`'] and rows['`high`'][1:4] == ('8.00', '8.50', '8.25')
    assert [row[-1] for row in rows.values()] == ['`low`', '-', '-']


def test_names_are_what_distinguishes_the_configs(comparison):
    assert comparison.short_names(['a_upernet_1x', 'b_upernet_1x']) == ['a', 'b']
    assert comparison.short_names(['a_fpn_1x', 'a_upernet_1x']) == ['fpn', 'upernet']


@pytest.mark.slow
def test_the_backbones_of_the_comparison_have_equal_sizes(comparison):
    """Within 10 % of HorNet's parameters and multiply-adds, for one crop."""
    suffix = '_upernet_1xb8-800_camvid-180x240.py'
    paths = sorted([*ROOT.glob(f'configs/seg/*/*{suffix}'), *ROOT.glob(f'benchmarks/camvid/*-dim*{suffix}')])
    sizes = {}
    for path in paths:
        backbone = comparison.Model('', path, ()).size.modules['backbone']
        sizes[path.name.removesuffix(suffix)] = (backbone.params, comparison.gmacs(backbone.macs))
    assert len(sizes) == 9
    for name, found in sizes.items():
        assert found == pytest.approx(sizes['hornet-dim32-7x7'], rel=0.1), name


@pytest.mark.slow
def test_page_from_toy_data(comparison, configs, tmp_path, monkeypatch, capfd):
    from mmfreq.datasets.toy import write_toy_ade20k

    write_toy_ade20k(tmp_path / 'toy', 8, 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, 'run', trained_in_this_process)
    monkeypatch.setattr('benchmarks.harness.suites.Settings.isolated', False)
    shared = [*map(str, configs), '--data', str(tmp_path / 'toy'), '--rounds', '2']
    comparison.main([*shared, '--seeds', '1', '--train-only'])  # as one of several commands
    assert not (tmp_path / 'page.md').exists()
    interrupted = tmp_path / 'work_dirs/compare_backbones' / configs[0].stem / 'seed1'
    (interrupted / comparison.SCORES).unlink()
    (interrupted / 'iter_4.pth').unlink()
    (interrupted / 'last_checkpoint').write_text(str(interrupted / 'iter_2.pth'))
    capfd.readouterr()
    comparison.main([*shared, '--out', 'page.md', '--plot', 'plot.png', '--title', 'Toy'])
    logged = ''.join(capfd.readouterr())
    assert 'resumed' in logged and (tmp_path / 'plot.png').read_bytes().startswith(b'\x89PNG')
    text = (tmp_path / 'page.md').read_text()
    assert text.startswith('# Toy\n') and str(tmp_path) not in text and '4 iterations of 2 crops of 128x128' in text
    rows = re.findall(r'^\| `(\w+)-micro` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|', text, re.MULTILINE)
    assert {name for name, *_ in rows} == {'hornet', 'dfformer'}
    for _, *scores in rows[:2]:
        first, second, average = map(float, scores)
        assert average == pytest.approx((first + second) / 2, abs=0.011) and 0 < first < 100
    assert '| model | iteration 2 | iteration 4 |' in text and '| ground |' in text
    before = sorted(tmp_path.glob('work_dirs/**/*.log'))
    comparison.main([*shared, '--out', 'page.md'])
    assert sorted(tmp_path.glob('work_dirs/**/*.log')) == before  # nothing was trained again
