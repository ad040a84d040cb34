"""Matching of files and rows by name, folder, list of published files, note and tensors; others are reported."""

import os
from dataclasses import replace

import pytest
import torch

from mmfreq.analysis.flops import build_for_counting
from mmfreq.errors import UserError
from mmfreq.weights.files import ZOO, list_weights
from mmfreq.zoo import checkpoints
from mmfreq.zoo.checkpoints import Matcher, Unmatched, assign, find_checkpoints, sha256_of
from mmfreq.zoo.rows import load_rows
from tests.zoo.rows_for_tests import NAME, row, saved, weightless

TINY = 'hornet-tiny-gf_upernet_8xb2-160k_ade20k-512x512'
AMP, EMA = (TINY.replace('-160k', f'-{variant}-160k') for variant in ('amp', 'ema'))
ET = 'affnet-et_8xb128-300e_in1k-256'


@pytest.fixture(scope='module')
def real():
    """Some rows of the zoo, by name."""
    rows = {each.name: each for each in load_rows()}
    return {name: rows[name] for name in (NAME, TINY, AMP, EMA, ET)}


@pytest.fixture(scope='module')
def states(real):
    """A state dict for each of these."""
    return {name: weightless(build_for_counting(str(each.config))[0]) for name, each in real.items()}


@pytest.fixture(scope='module')
def matcher(real):
    return Matcher(real.values())


@pytest.mark.parametrize(
    'file',
    [
        f'{NAME}.pth',
        f'{NAME}.pt',
        f'{NAME}.pth.tar',
        f'{NAME}-0123abcd.pth',
        f'{NAME}_20261121-0123abcd.pth',
        f'{NAME}_20261121_103000-0123abcd.pth',
        f'deep/er/{NAME}.bin',
        f'{NAME}/iter_400.pth',
        f'{NAME}/best_mIoU_iter_200.pth',
    ],
)
def test_a_name_matches_whatever_the_file_contains(tmp_path, file):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'no checkpoint')
    rows = [row(), row(NAME + '-extra'), row('hornet-micro_upernet')]
    (match,), unmatched = assign([tmp_path], rows)
    assert (match.row, match.file, unmatched) == (rows[0], path, [])
    assert 'name' in match.how and ('folder' in match.how) == (path.parent.name == NAME)


@pytest.mark.parametrize('file', [f'my-{NAME}.pth', f'{NAME}2.pth', f'{NAME}-old.pth', f'{NAME}/weights.pth'])
def test_similar_names_do_not_match(tmp_path, file):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'no checkpoint')
    assert isinstance(Matcher([row()]).match(path), Unmatched)


def run_folder(folder, *names):
    folder.mkdir(parents=True)
    for age, name in enumerate(reversed(names)):
        (folder / name).write_bytes(name.encode())
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    return folder


def test_best_else_last_checkpoint_of_a_run(tmp_path):
    saved_files = ('best_mIoU_iter_2.pth', 'iter_9.pth', 'iter_10.pth')
    best = run_folder(tmp_path / 'a' / 'best', *saved_files)
    last = run_folder(tmp_path / 'last', *saved_files[1:])
    (last / 'last_checkpoint').write_text('/elsewhere/iter_9.pth')  # the folder was moved
    os.utime(last / 'iter_10.pth', (0, 0))  # of a longer run, which this one overwrites
    newest = run_folder(tmp_path / 'newest', *saved_files[1:], 'other.pth')
    dangling = run_folder(tmp_path / 'dangling', 'epoch_2.pth', 'epoch_12.pth')
    (dangling / 'last_checkpoint').write_text('epoch_13.pth')
    assert set(find_checkpoints([tmp_path])) == {
        best / saved_files[0],
        last / 'iter_9.pth',
        newest / 'iter_10.pth',
        newest / 'other.pth',
        dangling / 'epoch_12.pth',
    }


def test_files_are_found_once_through_links(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'loop').symlink_to(tmp_path)
    for name in ('a/x.pth', 'a/.hidden.pth', 'a/readme.txt'):
        (tmp_path / name).write_bytes(b'')
    (tmp_path / 'elsewhere').symlink_to(tmp_path / 'a')
    assert find_checkpoints([tmp_path, tmp_path / 'a' / 'x.pth']) == [tmp_path / 'a' / 'x.pth']
    with pytest.raises(UserError, match='nowhere'):
        find_checkpoints([tmp_path / 'nowhere'])


def test_a_published_file_is_matched_by_sha256(tmp_path, monkeypatch):
    path = saved(tmp_path / 'downloaded.pth', {})
    (weights,) = list_weights('gfnet-ti', 'imagenet-1k')
    rows = [row('a'), row('gfnet-ti_8xb128-300e_in1k', 'cls', weights=weights.url)]
    for stated in ({'sha256': sha256_of(path)}, {'sha256_prefix': sha256_of(path)[:8]}):
        monkeypatch.setattr(checkpoints, 'ZOO', (*ZOO, replace(weights, **stated)))
        match = Matcher(rows).match(path)
        assert match.row is rows[1] and 'sha256' in match.how


def test_a_published_file_is_matched_by_name(tmp_path):
    path = saved(tmp_path / 'dfformer_s18.pth', {})
    (weights,) = list_weights('dfformer-s18', 'imagenet-1k')
    rows = [row('dfformer-s18_8xb128-310e_in1k', 'cls', weights=weights.url)]
    match = Matcher(rows).match(path)
    assert (match.row, match.file) == (rows[0], path) and 'name' in match.how and 'sha256' not in match.how


def test_files_of_mmpretrain_belong_to_the_row_of_the_same_arch(tmp_path, monkeypatch):
    path = saved(tmp_path / 'renamed.pth', {})
    converted, official = sorted(
        list_weights('hornet-tiny-7x7', 'imagenet-1k'), key=lambda each: 'mmpretrain' not in each.repository
    )
    rows = [row('hornet-tiny-7x7_32xb128-300e_in1k', 'cls', weights=official.url)]
    monkeypatch.setattr(checkpoints, 'ZOO', (*ZOO, replace(converted, sha256_prefix=sha256_of(path)[:8])))
    assert Matcher(rows).match(path).row is rows[0]


def test_a_published_name_with_other_content_is_refused(tmp_path):
    path = saved(tmp_path / 'hornet-tiny_3rdparty_in1k_20220915-0e8eedff.pth', {})
    why = Matcher([row()]).match(path).why
    assert '0e8eedff' in why and sha256_of(path)[:8] in why


def test_a_published_file_without_a_row_is_reported(tmp_path, monkeypatch):
    path = saved(tmp_path / 'x.pth', {})
    (weights,) = list_weights('hornet-large-gf', 'pretraining-22k')
    monkeypatch.setattr(checkpoints, 'ZOO', (replace(weights, sha256=sha256_of(path)),))
    assert 'pretraining-22k' in Matcher([row()]).match(path).why


def test_the_config_noted_by_mmengine_matches(tmp_path):
    path = saved(tmp_path / 'mine.pth', {'meta': {'experiment_name': f'{NAME}_20261121_083233'}, 'state_dict': {}})
    match = Matcher([row()]).match(path)
    assert match.row.name == NAME and 'config' in match.how


@pytest.mark.slow
def test_tensors_match_a_row(tmp_path, matcher, real, states):
    match = matcher.match(saved(tmp_path / 'a.pth', {'state_dict': states[NAME]}))
    assert match.row is real[NAME] and 'tensors' in match.how


def test_a_published_classifier_is_matched_by_its_tensors(tmp_path, matcher, real, states):
    published = {name.removeprefix('backbone.'): value for name, value in states[ET].items()}
    assert matcher.match(saved(tmp_path / 'a.pt', published)).row is real[ET]


def test_the_published_one_of_rows_with_the_same_shapes_is_chosen(tmp_path, matcher, real, states):
    match = matcher.match(saved(tmp_path / 'a.pth', {'state_dict': states[TINY]}))
    assert match.row is real[TINY] and AMP in match.how and EMA in match.how


def test_a_file_that_fits_several_rows_lists_their_names(tmp_path, real, states):
    path = saved(tmp_path / 'a.pth', {'state_dict': states[TINY]})
    why = Matcher([real[AMP], real[EMA]]).match(path).why
    assert ' 2 ' in why and f'{AMP}.pth' in why and f'{EMA}.pth' in why


def test_a_row_that_cannot_be_built_is_skipped(tmp_path, real, states):
    match = Matcher([row('hornet-broken_upernet'), real[NAME]]).match(saved(tmp_path / 'a.pth', {'state_dict': states[NAME]}))
    assert match.row is real[NAME]


def other_classes(states):
    return {**states[NAME], 'decode_head.conv_seg.weight': torch.zeros(7, 32, 1, 1), 'decode_head.conv_seg.bias': torch.zeros(7)}


UNMATCHED = {
    'other classes': (other_classes, ('segmentor', 'hornet')),
    'backbone alone': (lambda s: {k: v for k, v in s[ET].items() if 'classifier' not in k}, ('backbone',)),
    'another network': (lambda s: {'layer1.0.conv1.weight': torch.ones(1)}, ('ResNet',)),
    'no weights': (lambda s: {'state_dict': {}}, ('parameters',)),
    'no dict': (lambda s: [1, 2], ('parameters',)),
    'flat filter': (
        lambda s: {k: v.flatten() if 'complex_weight' in k else v for k, v in s[NAME].items()},
        ('segmentor',),
    ),
    'names that are numbers': (
        lambda s: {1: torch.ones(1)},
        ('names', ' 1'),
    ),
    'empty name': (lambda s: {'': torch.ones(1)}, ('layout',)),
}


@pytest.mark.parametrize('case', UNMATCHED)
def test_files_without_a_row_are_reported(tmp_path, matcher, states, case):
    make, facts = UNMATCHED[case]
    match = matcher.match(saved(tmp_path / 'a.pth', make(states)))
    assert isinstance(match, Unmatched) and all(fact in match.why for fact in facts), match.why


@pytest.mark.parametrize('content', [b'', b'text', b'PK\x03\x04 and then nothing', 'half'], ids=['empty', 'text', 'zip', 'half'])
def test_a_damaged_file_is_reported_in_one_line(tmp_path, matcher, states, content):
    path = saved(tmp_path / 'a.pth', {'state_dict': states[NAME]})
    path.write_bytes(path.read_bytes()[:-1000] if content == 'half' else content)
    why = matcher.match(path).why
    assert 'truncated' in why and '\n' not in why and len(why) <= 300


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_executed(tmp_path, matcher):
    path = saved(tmp_path / 'a.pth', {'state_dict': Hostile(tmp_path / 'made')})
    assert 'not executed' in matcher.match(path).why
    assert not (tmp_path / 'made').exists()


def test_safetensors_are_read(tmp_path):
    (tmp_path / f'{row().name}.safetensors').write_bytes(b'')
    (match,), unmatched = assign([tmp_path], [row()])
    assert match.how == 'by its name' and not unmatched
