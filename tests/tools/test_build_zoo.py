"""`tools/build_zoo.py` counts for new configs, writes the page, and reports what is out of date."""

import shutil
from functools import partial
from pathlib import Path

import pytest

import mmfreq
from mmfreq.zoo.rows import load_rows, update_models

ROOT = Path(mmfreq.__file__).parents[1]


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """The classifiers of one family."""
    tree = tmp_path_factory.mktemp('tree')
    skip = shutil.ignore_patterns('__pycache__', '.mim', 'seg', 'det', 'gfnet', 'dfformer', 'hornet', '*.yml.*')
    shutil.copytree(ROOT / 'configs', tree / 'configs', ignore=skip)
    return tree


@pytest.fixture
def build(tree, call_tool, monkeypatch):
    monkeypatch.setattr('mmfreq.zoo.rows.default_root', lambda: tree)
    return partial(call_tool, 'build_zoo')


def failure_of(build, *arguments):
    """The message with which the tool exits."""
    with pytest.raises(SystemExit) as end:
        build(*arguments)
    assert end.value.code not in (None, 0)
    return str(end.value.code)


@pytest.mark.slow
def test_count_write_and_check(tree, build):
    before = load_rows(tree)
    assert [row.arch for row in before] == ['affnet-et', 'affnet-t', 'affnet']
    assert 'model_zoo.md' in failure_of(build, '--check') and not (tree / 'model_zoo.md').exists()

    def forget(entry):
        return {**entry, 'Metadata': {'Training Data': 'ImageNet-1k'}} if entry['Name'].startswith('affnet-t') else entry

    update_models(tree / 'configs/cls/affnet/metafile.yml', forget)
    built = build()
    assert 'wrote model_zoo.md' in built and '3 configs' in built
    assert load_rows(tree) == [type(row)(row.entry, row.task, tree) for row in before]
    assert (tree / 'model_zoo.md').read_text().count('\n| [affnet') == 3
    assert '3 configs' in build('--check')
    update_models(tree / 'configs/cls/affnet/metafile.yml', forget)
    assert 'affnet-t_8xb128-300e_in1k-256' in failure_of(build, '--check')


def test_a_pattern_without_a_match_is_an_error(build, capsys):
    assert failure_of(build, '--measure', 'swin*') == '2'
    assert "'swin*'" in capsys.readouterr().err
