"""Images and videos are found in trees of folders, nothing is left out silently, and results overwrite nothing."""

import os
from pathlib import Path

import pytest

from mmfreq.analysis.inputs import RESULT_SUFFIXES, Input, find_inputs, refuse_to_overwrite, result_paths


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b'')
    return [folder / name for name in names]


def _found(*items, **options):
    return [item.path for item in find_inputs(items, **options).inputs]


def _inputs(*paths):
    return [Input(path, Path(path.name)) for path in paths]


def test_files_folders_and_globs_are_listed_in_order_each_once(tmp_path):
    b, a, c, _ = _touch(tmp_path, 'in/b.JPG', 'in/a.png', 'more/c.tif', 'in/notes.txt')
    assert _found(tmp_path / 'in') == [a, b]
    assert _found(b, tmp_path / 'in', str(tmp_path / '*/*.tif'), c) == [b, a, c]
    assert _found(str(tmp_path / '**/*.png')) == [a]
    assert _found(str(tmp_path / 'i*')) == [a, b]  # a folder that a glob matches is searched, as the shell's would be


def test_error_names_the_inputs_without_images_and_what_is_there(tmp_path):
    _touch(tmp_path, 'in/a.png', 'empty/notes.txt')
    with pytest.raises(FileNotFoundError, match=r'empty, .*\*\.bmp \(skipped: 1 of other types \(\.txt\)\)'):
        find_inputs([tmp_path / 'in', tmp_path / 'empty', str(tmp_path / '*.bmp')])


def test_error_names_the_inputs_that_do_not_exist(tmp_path):
    _touch(tmp_path, 'in/a.png', 'empty/notes.txt')
    with pytest.raises(FileNotFoundError, match=r'^/[^ ]*gone\.png does not exist\. Give files'):
        find_inputs([tmp_path / 'in', tmp_path / 'empty', tmp_path / 'gone.png'])
    with pytest.raises(FileNotFoundError, match=r'gone\.png, .*more do not exist'):
        find_inputs([tmp_path / 'gone.png', tmp_path / 'more'])


def test_sub_folders_are_searched_and_their_paths_kept(tmp_path):
    names = ['top.jpg', 'a/x.jpg', 'a/b/x.jpg', 'c/clip.MP4']
    _touch(tmp_path, *names)
    found = find_inputs([tmp_path])
    assert [item.relative.as_posix() for item in found.inputs] == names
    assert [item.is_video for item in found.inputs] == [False, False, False, True]
    assert not found.skipped and not found.problems and found.summary() == ''
    targets = result_paths(found.inputs, tmp_path / 'out')
    assert [target.relative_to(tmp_path / 'out').as_posix() for target in targets] == ['top', 'a/x', 'a/b/x', 'c/clip']


def test_skipped_files_are_counted_in_one_line(tmp_path):
    _touch(tmp_path, 'a.jpg', '.hidden.jpg', '._a.jpg', '.git/b.jpg', 'list.txt', 'deep/x.py', 'deep/y.py', 'Makefile')
    os.mkfifo(tmp_path / 'pipe.png')  # would block whoever opens it
    found = find_inputs([tmp_path, tmp_path / 'a.jpg'])
    assert [item.path.name for item in found.inputs] == ['a.jpg']
    assert found.summary() == 'skipped: 3 hidden, 1 files found twice, 5 of other types (.py, no suffix, .txt, .png)'
    assert _found(tmp_path / '.hidden.jpg') == [tmp_path / '.hidden.jpg']  # given by name


def test_links_are_followed_once_and_loops_end(tmp_path):
    kept = _touch(tmp_path, 'in/b/x.jpg', 'elsewhere/y.jpg')
    (tmp_path / 'in/a').symlink_to(tmp_path / 'in/b')  # before b in the order of names
    (tmp_path / 'in/b/up').symlink_to(tmp_path / 'in')
    (tmp_path / 'in/other').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'in/z.jpg').symlink_to(kept[0])
    (tmp_path / 'in/loop').symlink_to(tmp_path / 'in/loop')
    found = find_inputs([tmp_path / 'in'])
    assert [item.relative.as_posix() for item in found.inputs] == ['z.jpg', 'other/y.jpg']
    assert found.summary() == 'skipped: 1 files found twice, 2 folders found twice, 1 of other types (no suffix)'


def test_a_link_to_a_missing_image_is_an_input_whose_reading_fails(tmp_path):
    (tmp_path / 'gone.jpg').symlink_to(tmp_path / 'nowhere.jpg')
    (tmp_path / 'self.png').symlink_to(tmp_path / 'self.png')
    assert _found(tmp_path) == [tmp_path / 'gone.jpg', tmp_path / 'self.png']


def test_a_folder_that_cannot_be_read_is_a_problem(tmp_path, monkeypatch):
    _touch(tmp_path, 'a.jpg', 'locked/b.jpg')
    listdir = os.listdir

    def refuse(folder):
        if Path(folder).name == 'locked':
            raise PermissionError(13, 'Permission denied')
        return listdir(folder)

    monkeypatch.setattr(os, 'listdir', refuse)  # root may read everything
    found = find_inputs([tmp_path])
    assert len(found.inputs) == 1
    assert found.problems == [f'the folder {tmp_path / "locked"} cannot be read: Permission denied']
    assert find_inputs([tmp_path / 'locked']).problems


def test_results_of_earlier_runs_are_no_inputs(tmp_path):
    inputs = _touch(tmp_path, 'a.jpg', 'a.png', 'c/clip.mp4')
    for target in result_paths(find_inputs([tmp_path]).inputs, None):
        _touch(tmp_path, *(str(target) + suffix for suffix in RESULT_SUFFIXES if suffix != '_frames'))
        _touch(tmp_path, f'{target}_frames/000000.png')
    _touch(tmp_path, 'out/a.png', 'out/deep/b.png')
    found = find_inputs([tmp_path], tmp_path / 'out')
    assert [item.path for item in found.inputs] == inputs
    assert found.skipped == {f'output folder ({tmp_path / "out"})': 1, 'results of an earlier run': 3 * len(RESULT_SUFFIXES)}
    assert len(_found(tmp_path / 'out', out=tmp_path / 'out')) == 2  # given by name
    (only,) = _touch(tmp_path, 'own/holiday_pred.png')  # of no image: not a result
    assert _found(tmp_path / 'own') == [only]


def test_names_of_results_are_unique(tmp_path):
    names = ('x/a.jpg', 'y/a.jpg', 'x/a.png', 'x/b.jpg', 'x/b_overlay.jpg', 'x/x-a.jpg', 'y/x-a.jpg', 'x/b_overlay_panel.jpg')
    paths = _touch(tmp_path, *names)
    for out in (tmp_path / 'out', None):
        targets = result_paths(_inputs(*paths), out)
        outputs = [str(target) + suffix for target in targets for suffix in RESULT_SUFFIXES]
        assert len(set(outputs)) == len(outputs) == len(names) * len(RESULT_SUFFIXES)
    chosen = [target.name for target in result_paths(_inputs(*paths), tmp_path)]
    assert chosen[:2] == ['a', 'y-a'] and chosen[3] == 'b'


def test_results_beside_the_inputs_have_other_names_than_images(tmp_path):
    paths = _touch(tmp_path, 'x/a.jpg', 'x/a.png', 'y/a.jpg')
    targets = result_paths(_inputs(*paths), None)
    assert [target.relative_to(tmp_path).as_posix() for target in targets] == ['x/a_pred', 'x/a.png_pred', 'y/a_pred']
    refuse_to_overwrite(_inputs(*paths), targets)


def test_results_that_would_overwrite_inputs_are_rejected(tmp_path):
    inputs = _inputs(*_touch(tmp_path, 'a.png', 'b.jpg', 'c_pred.png', 'c.jpg'))
    with pytest.raises(ValueError, match=r'a\.png'):
        refuse_to_overwrite(inputs, result_paths(inputs, tmp_path))
    refuse_to_overwrite(inputs, result_paths(inputs, tmp_path / 'out'))
    refuse_to_overwrite(inputs[1:2], [tmp_path / 'b'])
    with pytest.raises(ValueError, match=r'c_pred\.png'):
        refuse_to_overwrite(inputs, result_paths(inputs, None))
    (tmp_path / 'linked').symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r'a\.png'):
        refuse_to_overwrite(inputs, [tmp_path / 'linked/a'])
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/b.png').symlink_to(tmp_path / 'b.jpg')  # a result would be written through it
    with pytest.raises(ValueError, match=r'b\.jpg'):
        refuse_to_overwrite(inputs, result_paths(inputs, tmp_path / 'out'))
