"""The run over rows: measurements are kept and not repeated, failures are reported, and the other rows follow."""

from dataclasses import replace

import pytest

from mmfreq.errors import UserError
from mmfreq.zoo.checkpoints import Match
from mmfreq.zoo.evaluation import Outcome
from mmfreq.zoo.reproduction import Settings, audit_or_difference, reproduce, select
from mmfreq.zoo.results import ResultsFile
from tests.zoo.rows_for_tests import row

CONFIG = """
default_scope = 'mmseg'
model = dict(type='EncoderDecoder')
test_dataloader = dict(dataset=dict(type='ADE20KDataset', data_root='data/toy', data_prefix=dict(img_path='images')))
test_evaluator = dict(type='IoUMetric')
"""
BOTH = {'mIoU': 49.2, 'mIoU(ms+flip)': 49.3}
NAMES = ('a_upernet_1xb1-1_toy', 'b_upernet_1xb1-1_toy')


class Evaluator:
    """Records its jobs; returns `outcomes` in turn, and the last one repeatedly."""

    def __init__(self, *outcomes):
        self.jobs, self.outcomes = [], list(outcomes) or [Outcome({'mIoU': 49.21}, '', 'CPU', {'torch': '2'})]

    def __call__(self, job):
        self.jobs.append(job)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A folder with data, two rows, and a checkpoint of each."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data/toy/images').mkdir(parents=True)
    (tmp_path / 'data/toy/images/1.png').touch()
    rows = [row(name, root=tmp_path, metrics=BOTH if name[0] == 'a' else None) for name in NAMES]
    (tmp_path / 'ck').mkdir()
    for each in rows:
        each.config.parent.mkdir(parents=True, exist_ok=True)
        each.config.write_text(CONFIG)
        (tmp_path / 'ck' / f'{each.name}.pth').write_text(each.name)
    return tmp_path, rows


@pytest.fixture
def run(zoo):
    """Runs; returns the states of the results, and the log."""
    folder, rows = zoo

    def go(evaluate, rows=rows, **settings):
        lines = []
        matches = [Match(each, folder / 'ck' / f'{each.name}.pth', 'by its name') for each in rows]
        results = reproduce(matches, rows, Settings(folder / 'out', **settings), evaluate, lines.append)
        return [(result.row[0], result.test, result.state) for result in results], '\n'.join(lines)

    return go


ALL = [('a', 'single scale', 'measured'), ('a', 'ms+flip', 'measured'), ('b', 'single scale', 'measured')]


def test_every_row_is_evaluated_in_each_way_of_testing(run, zoo):
    evaluate = Evaluator()
    assert run(evaluate)[0] == ALL
    assert [job.multi for job in evaluate.jobs] == [False, True, False]
    assert len({job.folder for job in evaluate.jobs}) == 3
    page = (zoo[0] / 'out/results.md').read_text()
    assert '49.2 | 49.21 | reproduced' in page and '- | 49.21 | measured (nothing published)' in page
    assert run(Evaluator(), single_scale=True)[0] == [ALL[0], ALL[2]]


def test_measurements_are_not_repeated(run):
    run(Evaluator())
    states, log = run(again := Evaluator(RuntimeError))
    assert states == ALL and not again.jobs
    assert 'measured on ' in log and 'mIoU 49.21' in log


def test_an_interrupted_run_loses_nothing_and_continues(run, zoo):
    done = Outcome({'mIoU': 49.0})
    with pytest.raises(KeyboardInterrupt):
        run(Evaluator(done, KeyboardInterrupt()))
    states = [result.state for result in ResultsFile(zoo[0] / 'out/results.json').read().values()]
    assert states == ['measured', 'started']
    results, _ = run(again := Evaluator())
    assert results == ALL and [job.multi for job in again.jobs] == [True, False]


def test_a_failure_is_reported_and_retried(run, zoo):
    bad = Outcome(reason='out of memory')
    states, log = run(Evaluator(bad, Outcome({'aAcc': 3.0}), Outcome({'mIoU': float('nan')})))
    assert [state for *_, state in states] == ['failed'] * 3
    assert 'failed: out of memory' in log and 'no mIoU(ms+flip) among the measured metrics: aAcc' in log and 'mIoU is nan' in log
    page = (zoo[0] / 'out/results.md').read_text()
    assert 'failed: out of memory; log: ' in page
    assert run(again := Evaluator())[0] == ALL and len(again.jobs) == 3


@pytest.mark.parametrize('change', ['config', 'checkpoint', 'data'])
def test_another_config_checkpoint_or_data_is_evaluated_again(run, zoo, change):
    folder, rows = zoo
    run(Evaluator(), rows[1:])
    settings = {}
    if change == 'config':
        rows[1].config.write_text(CONFIG + "tta_model = dict(type='SegTTAModel')")
    elif change == 'checkpoint':
        (folder / 'ck' / f'{NAMES[1]}.pth').write_text('retrained')
    else:
        (folder / 'data').rename(folder / 'moved')
        settings = {'data': {'toy': folder / 'moved'}}
    failing = Evaluator(Outcome(reason='killed'))
    states, _ = run(failing, rows[1:], **settings)
    assert states == [('b', 'single scale', 'failed')] and len(failing.jobs) == 1
    kept = ResultsFile(folder / 'out/results.json').read().values()
    assert sorted(result.state for result in kept) == ['failed', 'measured']
    assert '49.21' in (folder / 'out/results.md').read_text()


def test_comments_times_and_published_numbers_do_not_repeat_an_evaluation(run, zoo):
    folder, rows = zoo
    run(Evaluator(), rows[1:])
    rows[1].config.write_text('# a comment\n' + CONFIG)
    (folder / 'ck' / f'{NAMES[1]}.pth').touch()
    published = row(NAMES[1], root=folder, metrics={'mIoU': 40.0})
    _, log = run(Evaluator(RuntimeError), [published], data={'toy': folder / 'data' / 'toy', 'coco': folder})
    assert 'measured on' in log
    assert 'differs by +9.2' in (folder / 'out/results.md').read_text()


def test_missing_data_are_a_verdict(run, zoo):
    folder, _ = zoo
    evaluate = Evaluator()
    states, log = run(evaluate, data={'toy': folder / 'none'})
    assert [state for *_, state in states] == ['no data'] * 3 and not evaluate.jobs
    assert f'no data: {folder}/none' in log
    assert f'no data: looked at {folder}/none' in (folder / 'out/results.md').read_text()
    assert run(evaluate)[0] == ALL


def test_data_option_reaches_the_evaluation(run, zoo):
    (zoo[0] / 'data').rename(zoo[0] / 'moved')
    run(evaluate := Evaluator(), data={'toy': zoo[0] / 'moved'})
    assert evaluate.jobs[0].options == {'test_dataloader.dataset.data_root': str(zoo[0] / 'moved' / 'toy')}


@pytest.mark.parametrize('broken', ['config', 'checkpoint'])
def test_a_row_that_cannot_start_fails_and_the_others_follow(run, zoo, broken):
    folder, rows = zoo
    if broken == 'config':
        rows[0].config.write_text('model = dict(')
    else:
        (folder / 'ck' / f'{NAMES[0]}.pth').unlink()
    states, _ = run(Evaluator())
    assert [(name, state) for name, _, state in states if name == 'b'] == [('b', 'measured')]
    assert {state for name, _, state in states if name == 'a'} == {'failed'}


def test_the_same_file_twice_is_evaluated_once(zoo):
    folder, (_, b) = zoo
    copy = folder / 'copy.pth'
    copy.write_text(b.name)
    matches = [Match(b, path, '') for path in (folder / 'ck' / f'{b.name}.pth', copy)]
    results = reproduce(matches, [b], Settings(folder / 'out'), evaluate := Evaluator(), (lines := []).append)
    assert len(results) == len(evaluate.jobs) == 1
    assert any('the same file again' in line for line in lines)


def test_an_invalid_results_file_stops_the_run(run, zoo):
    (zoo[0] / 'out').mkdir()
    (zoo[0] / 'out/results.json').write_text('mine')
    with pytest.raises(UserError, match='--out'):
        run(evaluate := Evaluator())
    assert not evaluate.jobs and (zoo[0] / 'out/results.json').read_text() == 'mine'


def test_select_by_a_part_of_the_name_or_a_pattern():
    rows = [row(name) for name in ('affnet_8xb128-300e_in1k-256', 'gfnet-s_upernet', 'gfnet-s_8xb128')]
    assert select(rows, None) == rows
    assert select(rows, 'gfnet') == select(rows, 'gfnet*') == rows[1:]
    assert select(rows, 'gfnet-?_upernet') == select(rows, 'upernet') == rows[1:2]
    with pytest.raises(UserError, match="none of the 3 rows matches 'hornet'"):
        select(rows, 'hornet')


def test_a_config_that_cannot_be_read_differs_from_its_record(zoo):
    _, (a, _) = zoo
    broken = replace(a, root=a.root / 'none')
    assert not audit_or_difference(broken).agrees
    assert 'FileNotFoundError' in audit_or_difference(broken).differences[0].config
