"""The file of results keeps measurements and refuses other files; verdicts, names of metrics, and tables."""

import io
import json
import math
import os
from dataclasses import replace

import pytest
from rich.console import Console

from mmfreq.errors import UserError
from mmfreq.zoo.reproduction import lines_of, list_table, newest, page, results_table, tally
from mmfreq.zoo.results import (
    FAILED,
    MEASURED,
    MULTI,
    NO_DATA,
    SINGLE,
    NoScoreError,
    Result,
    ResultsFile,
    is_success,
    named_metrics,
    published_for,
    verdict,
    ways_of,
)
from tests.zoo.rows_for_tests import NAME, row

BEGUN = Result(NAME, 'single scale', 'a' * 64, 'c' * 16, 'ck/x.pth', log='out/log.txt', date='2026-11-21 10:30')
DONE = replace(BEGUN, state=MEASURED, metrics={'mIoU': 49.21}, raw={'mIoU': 49.21, 'aAcc': 82.0}, hardware='CPU')
BAD = replace(BEGUN, state=FAILED, reason='out of memory')
BOTH = {'mIoU': 49.2, 'mIoU(ms+flip)': 49.3}
ROW = row(metrics=BOTH)


@pytest.fixture
def file(tmp_path):
    return ResultsFile(tmp_path / 'out' / 'results.json')


def test_results_are_read_back(file):
    other = replace(DONE, test='ms+flip')
    for result in (BEGUN, DONE, other):
        file.record(result)
    assert ResultsFile(file.path).read() == {DONE.key: DONE, other.key: other}


@pytest.mark.parametrize('later', [BAD, BEGUN, replace(BEGUN, state=NO_DATA)], ids=lambda result: result.state)
def test_a_measurement_is_kept_whatever_follows(file, later):
    file.record(DONE)
    file.record(later)
    assert file.read() == {DONE.key: DONE}


def test_a_measurement_replaces_earlier_results(file):
    for result in (BAD, BEGUN, DONE, newer := replace(DONE, metrics={'mIoU': 49.3})):
        file.record(result)
        assert file.read()[BEGUN.key] == result
    assert file.read() == {BEGUN.key: newer}


@pytest.mark.parametrize('change', [{'row': 'b'}, {'test': 'ms+flip'}, {'sha256': 'b' * 64}, {'config': 'd' * 16}])
def test_row_test_checkpoint_and_config_identify_a_result(file, change):
    file.record(DONE)
    file.record(other := replace(BAD, **change))
    assert file.read() == {DONE.key: DONE, other.key: other}


def test_two_runs_at_a_time_lose_nothing(file):
    first, second = file, ResultsFile(file.path)
    first.record(DONE)
    second.record(other := replace(DONE, row='b'))
    first.record(third := replace(DONE, row='c'))
    assert list(second.read()) == [DONE.key, other.key, third.key]


def test_an_interrupted_write_keeps_the_old_file(file, monkeypatch):
    file.record(DONE)
    before = file.path.read_bytes()

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('pathlib.Path.replace', interrupted)
    with pytest.raises(KeyboardInterrupt):
        file.record(replace(DONE, row='b'))
    assert file.path.read_bytes() == before
    assert os.listdir(file.path.parent) == ['results.json']


def test_nan_is_never_written(file):
    with pytest.raises(ValueError):
        file.record(replace(DONE, raw={'x': float('nan')}))
    assert not file.path.exists()


@pytest.mark.parametrize(
    'text', ['', '{"version": 1', '[]', '{"version": 1, "results": [{"x": 1}]}', '{"version": 2, "results": []}']
)
def test_an_invalid_file_is_refused_and_kept(file, text):
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


def test_newest_measurement_and_last_attempt_of_a_checkpoint():
    changed, again = (replace(DONE, config=each * 16, metrics={'mIoU': 50.0}) for each in 'de')
    failed = replace(BAD, config='f' * 16)
    other = replace(BAD, sha256='b' * 64)
    assert newest([DONE, failed, changed, other]) == [changed, other]
    assert newest([DONE, changed, again, failed]) == [again, failed]
    assert newest([BAD, replace(BEGUN, config='d' * 16)]) == [replace(BEGUN, config='d' * 16)]


def test_results_md_is_a_table():
    lines = page(lines_of([DONE, replace(BAD, sha256='b', reason='a | b\nc')], [ROW])).splitlines()
    header, rule, good, bad = [line for line in lines if line.startswith('|')]
    assert good == f'| {NAME} | single scale | mIoU | 49.2 | 49.21 | reproduced | x.pth | 2026-11-21 10:30 | CPU |'
    assert 'a \\| b c' in bad
    assert len({line.replace('\\|', '').count('|') for line in (header, rule, good, bad)}) == 1


def drawn(table):
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_terminal_shows_full_names_and_literal_brackets():
    lines = lines_of([replace(BAD, reason='expected [1, 2], got [bold]'), replace(DONE, checkpoint='ck/y.pth', sha256='b')], [ROW])
    shown = drawn(results_table(lines))
    assert 'expected [1, 2], got [bold]' in shown
    assert NAME in shown and 'x.pth' in shown and 'y.pth' in shown  # two checkpoints of one row are distinguished
    assert 'x.pth' not in drawn(results_table(lines_of([DONE], [ROW])))
    assert NAME in drawn(list_table([ROW], []))


def test_results_are_plain_json(file):
    file.record(DONE)
    content = json.loads(file.path.read_text())
    assert content['version'] == 1 and content['results'][0]['metrics'] == {'mIoU': 49.21}


@pytest.mark.parametrize(
    ('measured', 'published', 'words'),
    [
        (49.2, 49.2, 'reproduced'),
        (49.4, 49.2, 'reproduced'),  # 0.19999999999999574 as floats
        (49.0, 49.2, 'reproduced'),  # 0.20000000000000284
        (0.3, 0.1, 'reproduced'),
        (48.3, 48.1, 'reproduced'),
        (49.41, 49.2, 'differs by +0.21'),
        (48.99, 49.2, 'differs by -0.21'),
        (49.5, 49.2, 'differs by +0.3'),
        (50.2, 49.2, 'differs by +1.0'),
        (9.0, 49.2, 'differs by -40.2'),
        (49.2, None, 'measured (nothing published)'),
    ],
)
def test_numbers_within_two_tenths_are_reproduced(measured, published, words):
    assert verdict(measured, published) == words
    assert is_success(words) == (not words.startswith('differs'))


def test_ways_of_testing():
    assert ways_of(row(metrics=BOTH)) == [SINGLE, MULTI]
    assert ways_of(row(metrics=BOTH), single_scale=True) == ways_of(row(metrics={'mIoU': 48.6})) == ways_of(row()) == [SINGLE]
    assert published_for(row(metrics=BOTH), SINGLE) == {'mIoU': 49.2}
    assert published_for(row(metrics=BOTH), MULTI) == {'mIoU(ms+flip)': 49.3}


@pytest.mark.parametrize(
    ('found', 'test', 'named'),
    [
        ({'aAcc': 82.0, 'mIoU': 49.204, 'mAcc': 60.0}, SINGLE, {'mIoU': 49.2}),
        ({'aAcc': 82.0, 'mIoU': 49.306}, MULTI, {'mIoU(ms+flip)': 49.31}),
        ({'coco/bbox_mAP': 0.524, 'coco/bbox_mAP_50': 0.7, 'coco/segm_mAP': 0.456}, SINGLE, {'box AP': 52.4, 'mask AP': 45.6}),
        ({'accuracy/top1': 83.01, 'accuracy/top5': 96.4}, SINGLE, {'Top 1 Accuracy': 83.01, 'Top 5 Accuracy': 96.4}),
        ({'coco/bbox_mAP': 0.0}, SINGLE, {'box AP': 0.0}),
    ],
)
def test_metrics_get_the_names_in_metafiles(found, test, named):
    assert named_metrics(found, row(), test) == named


@pytest.mark.parametrize(
    ('found', 'message'),
    [
        ({'mIoU': math.nan}, 'mIoU is nan'),
        ({'mIoU': math.inf}, 'mIoU is inf'),
        ({'coco/bbox_mAP': -1.0}, 'have no object'),
        ({'aAcc': 3.0}, 'no known metric among the measured metrics: aAcc'),
        ({}, 'none'),
    ],
)
def test_invalid_scores_are_refused(found, message):
    with pytest.raises(NoScoreError, match=message):
        named_metrics(found, row(), SINGLE)


def test_a_published_metric_must_be_measured():
    published = row(task='det', metrics={'box AP': 52.4, 'mask AP': 45.6})
    with pytest.raises(NoScoreError, match=r'no mask AP among .*coco/bbox_mAP; .*nothing is detected'):
        named_metrics({'coco/bbox_mAP': 0.5}, published, SINGLE)
