"""The command line of the toy generator: output, messages and exit status."""

from functools import partial
from pathlib import Path

import pytest


@pytest.fixture
def make(call_tool, tmp_path, monkeypatch):
    """The tool, called in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(call_tool, 'make_toy_dataset')


def images(folder):
    return len(list(Path(folder).rglob('*.jpg')))


def refused(make, capsys, *args):
    """The message of a call that ends with status 2."""
    with pytest.raises(SystemExit) as end:
        make(*args)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_both_layouts_then_nothing_to_do_then_an_error(make, capsys):
    args = ('both', '--out', 'toys', '--train', 2, '--val', 1, '--size', 48, 64)
    first = make(*args)
    assert first.count('2 + 1 images') == 2 and 'ground' in first and '%' in first
    assert images('toys/ade20k') == images('toys/coco') == 3
    assert Path('toys/coco/annotations/instances_val2017.json').is_file()
    assert make(*args).count('nothing to do') == 2

    other = ('ade20k', '--out', 'toys/ade20k', '--train', 1, '--val', 1)
    assert 'toys/ade20k' in refused(make, capsys, *other) and images('toys/ade20k') == 3
    make(*other, '--overwrite')
    assert images('toys/ade20k') == 2


def test_a_folder_with_other_files_is_refused(make, capsys):
    Path('photo.jpg').write_bytes(b'foreign')
    assert 'error' in refused(make, capsys, 'ade20k', '--out', '.', '--overwrite')
    assert [path.name for path in Path().iterdir()] == ['photo.jpg']
