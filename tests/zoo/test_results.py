"""The file of results keeps measurements, is whole at any time, and refuses what it did not write; tables tell what is in it."""

import io
import json
import os
from dataclasses import replace

import pytest
from rich.console import Console

from mmfreq.errors import UserError
from mmfreq.zoo.reproduction import lines_of, list_table, newest, page, table, tally
from mmfreq.zoo.results import FAILED, MEASURED, NO_DATA, Result, ResultsFile
from tests.zoo.rows_for_tests import NAME, row

BEGUN = Result(NAME, 'single scale', 'a' * 64, 'c' * 16, 'ck/x.pth', log='out/log.txt', date='2026-11-21 10:30')
DONE = replace(BEGUN, state=MEASURED, metrics={'mIoU': 49.21}, raw={'mIoU': 49.21, 'aAcc': 82.0}, hardware='CPU')
BAD = replace(BEGUN, state=FAILED, reason='out of memory')
ROW = row(metrics={'mIoU': 49.2, 'mIoU(ms+flip)': 49.3})


@pytest.fixture
def file(tmp_path):
    return ResultsFile(tmp_path / 'out' / 'results.json')


def test_what_is_written_is_read(file):
    other = replace(DONE, test='ms+flip')
    for result in (BEGUN, DONE, other):
        file.record(result)
    assert ResultsFile(file.path).read() == {DONE.key: DONE, other.key: other}


@pytest.mark.parametrize('later', [BAD, BEGUN, replace(BEGUN, state=NO_DATA)], ids=lambda result: result.state)
def test_a_measurement_stays_whatever_comes_after_it(file, later):
    file.record(DONE)
    file.record(later)
    assert file.read() == {DONE.key: DONE}


def test_a_measurement_replaces_what_was_before_it(file):
    for result in (BAD, BEGUN, DONE, newer := replace(DONE, metrics={'mIoU': 49.3})):
        file.record(result)
        assert file.read()[BEGUN.key] == result
    assert file.read() == {BEGUN.key: newer}


@pytest.mark.parametrize('change', [{'row': 'b'}, {'test': 'ms+flip'}, {'sha256': 'b' * 64}, {'config': 'd' * 16}])
def test_row_test_checkpoint_and_config_tell_results_apart(file, change):
    file.record(DONE)
    file.record(other := replace(BAD, **change))
    assert file.read() == {DONE.key: DONE, other.key: other}


def test_a_second_run_beside_this_one_loses_nothing(file):
    mine, theirs = file, ResultsFile(file.path)
    mine.record(DONE)
    theirs.record(other := replace(DONE, row='b'))
    mine.record(third := replace(DONE, row='c'))
    assert list(theirs.read()) == [DONE.key, other.key, third.key]


def test_an_interrupted_write_leaves_the_old_file(file, monkeypatch):
    file.record(DONE)
    before = file.path.read_bytes()

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('pathlib.Path.replace', interrupted)
    with pytest.raises(KeyboardInterrupt):
        file.record(replace(DONE, row='b'))
    assert file.path.read_bytes() == before
    assert os.listdir(file.path.parent) == ['results.json']


def test_numbers_that_are_none_are_never_written(file):
    with pytest.raises(ValueError):
        file.record(replace(DONE, raw={'x': float('nan')}))
    assert not file.path.exists()


@pytest.mark.parametrize(
    'text', ['', '{"version": 1', '[]', '{"version": 1, "results": [{"x": 1}]}', '{"version": 2, "results": []}']
)
def test_a_file_of_another_kind_is_refused_and_stays(file, text):
    file.path.parent.mkdir()
    file.path.write_text(text)
    for act in (file.read, lambda: file.record(DONE)):
        with pytest.raises(UserError, match=r'results\.json.*--out'):
            act()
    assert file.path.read_text() == text


def verdicts(*results):
    return [line.verdict for line in lines_of(results, [ROW])]


def test_a_line_for_each_metric_with_its_verdict():
    multi = replace(DONE, test='ms+flip', metrics={'mIoU(ms+flip)': 48.0})
    assert verdicts(DONE, multi) == ['reproduced', 'differs by -1.3']
    assert verdicts(BAD) == ['failed: out of memory; log: out/log.txt']
    assert verdicts(replace(BAD, log='')) == ['failed: out of memory']
    assert verdicts(BEGUN) == ['not finished']
    assert verdicts(replace(BEGUN, state=NO_DATA, reason='/data/ade')) == ['no data: looked at /data/ade']
    assert verdicts(replace(DONE, row='no more')) == []
    assert tally(lines_of([DONE, multi, BAD], [ROW])) == '1 reproduced, 1 differs, 1 failed'


def test_of_a_checkpoint_the_newest_measurement_and_what_came_after():
    changed, again = (replace(DONE, config=each * 16, metrics={'mIoU': 50.0}) for each in 'de')
    failed = replace(BAD, config='f' * 16)
    other = replace(BAD, sha256='b' * 64)
    assert newest([DONE, failed, changed, other]) == [changed, other]
    assert newest([DONE, changed, again, failed]) == [again, failed]
    assert newest([BAD, replace(BEGUN, config='d' * 16)]) == [replace(BEGUN, config='d' * 16)]


def test_the_page_is_a_table_of_markdown():
    lines = page(lines_of([DONE, replace(BAD, sha256='b', reason='a | b\nc')], [ROW])).splitlines()
    header, rule, good, bad = [line for line in lines if line.startswith('|')]
    assert good == f'| {NAME} | single scale | mIoU | 49.2 | 49.21 | reproduced | x.pth | 2026-11-21 10:30 | CPU |'
    assert 'a \\| b c' in bad
    assert len({line.replace('\\|', '').count('|') for line in (header, rule, good, bad)}) == 1


def drawn(table):
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_terminal_shows_names_in_full_and_brackets_as_they_are():
    lines = lines_of([replace(BAD, reason='expected [1, 2], got [bold]'), replace(DONE, checkpoint='ck/y.pth', sha256='b')], [ROW])
    shown = drawn(table(lines))
    assert 'expected [1, 2], got [bold]' in shown
    assert NAME in shown and 'x.pth' in shown and 'y.pth' in shown  # which of the two checkpoints is told
    assert 'x.pth' not in drawn(table(lines_of([DONE], [ROW])))
    assert NAME in drawn(list_table([ROW], []))


def test_results_are_plain_json(file):
    file.record(DONE)
    content = json.loads(file.path.read_text())
    assert content['version'] == 1 and content['results'][0]['metrics'] == {'mIoU': 49.21}
