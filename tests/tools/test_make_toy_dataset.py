"""The command line of the toy generator: what it writes, what it says and how it ends."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'tools/make_toy_dataset.py'


def _run(*args, cwd):
    command = [sys.executable, str(TOOL), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.slow
def test_both_layouts_from_any_folder_then_nothing_to_do_then_refusal(tmp_path):
    args = ('both', '--out', 'toys', '--train', 2, '--val', 1, '--size', 48, 64)
    first = _run(*args, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count('wrote 2 + 1 pictures') == 2 and 'ground' in first.stdout and '%' in first.stdout
    assert len(list((tmp_path / 'toys/ade20k').rglob('*.jpg'))) == len(list((tmp_path / 'toys/coco').rglob('*.jpg'))) == 3
    assert (tmp_path / 'toys/coco/annotations/instances_val2017.json').is_file()

    again = _run(*args, cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.count('nothing to do') == 2

    other = _run('ade20k', '--out', 'toys/ade20k', '--train', 1, '--val', 1, cwd=tmp_path)
    assert other.returncode == 2 and 'other parameters' in other.stderr and 'Traceback' not in other.stderr
    replaced = _run('ade20k', '--out', 'toys/ade20k', '--train', 1, '--val', 1, '--overwrite', cwd=tmp_path)
    assert replaced.returncode == 0 and len(list((tmp_path / 'toys/ade20k').rglob('*.jpg'))) == 2


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / 'photo.jpg').write_bytes(b'dear')
    done = _run('ade20k', '--out', '.', '--overwrite', cwd=tmp_path)
    assert done.returncode == 2 and 'no toy set' in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['photo.jpg']
