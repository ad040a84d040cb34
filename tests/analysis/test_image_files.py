"""Which files are meant, and that nothing overwrites anything."""

import pytest

from mmfreq.analysis.images import MADE, find_images, output_names, refuse_to_overwrite


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b'')
    return [folder / name for name in names]


def test_files_folders_and_globs_stand_for_pictures_each_once_in_order(tmp_path):
    b, a, c, _ = _touch(tmp_path, 'in/b.JPG', 'in/a.png', 'more/c.tif', 'in/notes.txt')
    assert find_images([tmp_path / 'in']) == [a, b]
    assert find_images([b, tmp_path / 'in', str(tmp_path / '*/*.tif'), c]) == [b, a, c]
    assert find_images([str(tmp_path / '**/*.png')]) == [a]


def test_inputs_that_stand_for_nothing_are_named(tmp_path):
    _touch(tmp_path, 'in/a.png', 'empty/notes.txt')
    with pytest.raises(FileNotFoundError, match=r'empty, .*\*\.bmp, .*gone\.png'):
        find_images([tmp_path / 'in', tmp_path / 'empty', str(tmp_path / '*.bmp'), tmp_path / 'gone.png'])


def test_no_two_outputs_share_a_name(tmp_path):
    names = ('x/a.jpg', 'y/a.jpg', 'x/a.png', 'x/b.jpg', 'x/b_overlay.jpg', 'x/x-a.jpg', 'y/x-a.jpg', 'x/b_overlay_panel.jpg')
    given = output_names(_touch(tmp_path, *names))
    outputs = [name + suffix for name in given for suffix in MADE]
    assert len(set(outputs)) == len(outputs) == len(names) * len(MADE)
    assert given[:2] == ['a', 'y-a'] and given[3] == 'b'


def test_an_output_folder_where_inputs_would_be_overwritten_is_refused(tmp_path):
    pictures = _touch(tmp_path, 'a.png', 'b.jpg')
    with pytest.raises(ValueError, match=r'a\.png'):
        refuse_to_overwrite(pictures, output_names(pictures), tmp_path)
    refuse_to_overwrite(pictures, output_names(pictures), tmp_path / 'out')
    refuse_to_overwrite(pictures[1:], ['b'], tmp_path)
