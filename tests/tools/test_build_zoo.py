"""`tools/build_zoo.py` measures what is not measured, writes the page, and says what is out of date."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mmfreq
from mmfreq.zoo.rows import load_rows, update_models

ROOT = Path(mmfreq.__file__).parents[1]


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """A source tree with the zoo of one family's classifiers."""
    tree = tmp_path_factory.mktemp('tree')
    skip = shutil.ignore_patterns('__pycache__', '.mim', 'seg', 'det', 'gfnet', 'dfformer', 'hornet', '*.yml.*')
    for folder in ('mmfreq', 'tools'):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    shutil.copytree(ROOT / 'configs', tree / 'configs', ignore=skip)
    return tree


def build(tree, *arguments):
    command = [sys.executable, '-W', 'ignore', str(tree / 'tools/build_zoo.py'), *arguments]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=300, env={**os.environ, 'PYTHONPATH': ''})


@pytest.mark.slow
def test_measured_written_and_checked(tree):
    before = load_rows(tree)
    assert [row.arch for row in before] == ['affnet-et', 'affnet-t', 'affnet']
    missing = build(tree, '--check')
    assert missing.returncode == 1 and 'model_zoo.md is out of date' in missing.stderr and not (tree / 'model_zoo.md').exists()

    def forget(entry):
        return {**entry, 'Metadata': {'Training Data': 'ImageNet-1k'}} if entry['Name'].startswith('affnet-t') else entry

    update_models(tree / 'configs/cls/affnet/metafile.yml', forget)
    built = build(tree)
    assert built.returncode == 0, built.stderr
    assert 'wrote model_zoo.md' in built.stdout and '3 configs, all measured' in built.stdout
    assert load_rows(tree) == [type(row)(row.entry, row.task, tree) for row in before]
    assert (tree / 'model_zoo.md').read_text().count('\n| [affnet') == 3
    assert build(tree, '--check').returncode == 0
    update_models(tree / 'configs/cls/affnet/metafile.yml', forget)
    stale = build(tree, '--check')
    assert stale.returncode == 1 and 'affnet-t_8xb128-300e_in1k-256 is not measured' in stale.stderr


@pytest.mark.slow
def test_a_pattern_that_fits_nothing_is_an_error(tree):
    refused = build(tree, '--measure', 'swin*')
    assert refused.returncode != 0 and "no config is named 'swin*'" in refused.stderr and 'Traceback' not in refused.stderr
