"""benchmarks/compare_backbones.py writes its table from toy data and repeats no completed run."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, TRAIN = ROOT / 'benchmarks' / 'compare_backbones.py', ROOT / 'tools' / 'train.py'
TOY = ROOT / 'configs/seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py'


def trained_in_this_process(command, *args, run=subprocess.run, **options):
    """Run `tools/train.py` in this process, which saves its imports; other programs run as usual."""
    if command[:2] != [sys.executable, str(TRAIN)]:
        return run(command, *args, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', command[1:])
        patch.syspath_prepend(TRAIN.parent)
        runpy.run_path(command[1], run_name='__main__')


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name='__main__')


def test_recipe_is_independent_of_the_backbone():
    options = runpy.run_path(str(SCRIPT))['recipe'](1000, 1e-3)
    warm_up, decay = options['param_scheduler']
    assert (warm_up['end'], decay['begin'], decay['end']) == (50, 50, 1000) == (50, 50, options['train_cfg.max_iters'])
    assert options['model.backbone.drop_path_rate'] == 0 and options['optim_wrapper.paramwise_cfg.decay_rate'] == 1


@pytest.mark.slow
def test_table_from_toy_data(tmp_path, monkeypatch, capfd):
    from mmengine.config import Config

    from mmfreq.datasets.toy import write_toy_ade20k

    write_toy_ade20k(tmp_path / 'toy', 8, 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, 'run', trained_in_this_process)
    arguments = ['--base', str(TOY), '--archs', 'hornet-micro', 'gfnet-micro', '--iterations', '4', '--img-size', '128']
    arguments += ['--data', str(tmp_path / 'toy'), '--out', 'table.md', '--title', 'Toy']
    run(monkeypatch, *arguments)
    text = (tmp_path / 'table.md').read_text()
    cells = dict(re.findall(r'^\| `([a-z-]+)` \| (.*) \|$', text, re.MULTILINE))
    assert list(cells) == ['hornet-micro', 'gfnet-micro'] and text.startswith('# Toy')
    first = [cell.strip() for cell in cells['hornet-micro'].split('|')]
    assert first[5] == '1.00' and 0 < float(first[2]) < 100 and float(first[4]) > 0
    leaf = Config.fromfile(tmp_path / 'work_dirs/compare_backbones/gfnet-micro.py')
    assert leaf.model.backbone.arch == 'gfnet-micro' and leaf.optim_wrapper.optimizer.lr == 1e-3 and leaf.train_cfg.max_iters == 4
    capfd.readouterr()
    run(monkeypatch, *arguments)
    assert 'Iter(train)' not in capfd.readouterr().out and (tmp_path / 'table.md').read_text() == text
