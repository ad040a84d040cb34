"""The tables and the chart of `tools/test.py --classwise` and `--plot-classes`, as a user calls it."""

import pytest

from tests.engine.box_detector import write_config, write_images

pytestmark = pytest.mark.usefixtures('quiet_loggers')


@pytest.fixture
def test_tool(tool_main, tmp_path, monkeypatch, capsys):
    """`test_tool(*arguments)`: the output of test.py on boxes of two of three classes, one of which is not found."""
    monkeypatch.setenv('COLUMNS', '160')
    write_images(tmp_path, [[(0, 2, 4, 10, 12)], [(1, 26, 6, 12, 10)]])
    config, checkpoint = map(str, write_config(tmp_path))

    def call(*arguments):
        options = ['--work-dir', str(tmp_path / 'w'), '--cfg-options', 'model.misses=1']
        tool_main('test')([config, checkpoint, *arguments, *options])
        return capsys.readouterr().out

    return call


def cells(printed):
    """The rows of the last printed table: class -> scores."""
    rows = [[cell.strip() for cell in line.strip('│').split('│')] for line in printed.splitlines() if line.startswith('│')]
    return {name: scores for name, *scores in rows}


@pytest.mark.parametrize('options', [('--classwise',), ('--plot-classes',), ('--plot-classes', '--classwise')], ids=' '.join)
def test_a_class_without_objects_has_a_dash(test_tool, tmp_path, options):
    printed = test_tool(*options)
    assert cells(printed) == {'dark': ['100.0'], 'gray': ['0.0'], 'bright': ['-'], 'mean': ['50.0']}
    assert (tmp_path / 'w/class_scores.png').is_file() == ('--plot-classes' in options)


def test_with_flips(test_tool):
    assert cells(test_tool('--classwise', '--tta'))['dark'] == ['100.0']


def test_without_the_option_there_is_no_table(test_tool):
    assert cells(test_tool()) == {}


@pytest.mark.parametrize('option', ['--classwise', '--plot-classes'])
def test_one_table_at_a_time(test_tool, capsys, option):
    with pytest.raises(SystemExit) as ended:
        test_tool(option, '--baseline')
    assert ended.value.code == 2 and 'not allowed with' in capsys.readouterr().err
