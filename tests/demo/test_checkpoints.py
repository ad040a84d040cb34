"""Finding pairs of config and checkpoint, and keeping few of them in memory."""

import os

import pytest

from mmfreq.demo.checkpoints import UNTRAINED, Models, find_sources, one_source
from mmfreq.errors import UserError


def touch(path, age=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'')
    os.utime(path, (10**9 - age, 10**9 - age))


def names(sources):
    return [(source.checkpoint.name, source.config.name) for source in sources]


def test_a_work_dir_gives_its_checkpoints_the_newest_first(tmp_path):
    for path in ('run/cfg.py', 'run/iter_200.pth', 'run/iter_1000.pth', 'run/20250101/vis_data/config.py', 'run/notes.txt'):
        touch(tmp_path / path)
    touch(tmp_path / 'run/best_mIoU_iter_800.pth', age=5)
    found, alone = find_sources([tmp_path])
    assert [name for name, _ in names(found)] == ['iter_1000.pth', 'iter_200.pth', 'best_mIoU_iter_800.pth']
    assert {config for _, config in names(found)} == {'cfg.py'} and alone == []


def test_of_several_configs_the_name_decides_and_without_one_it_is_left_out(tmp_path):
    for name in ('a.py', 'a_large.py', 'a_large_2024.pth', 'a_2024.pth', 'other.pth'):
        touch(tmp_path / name)
    touch(tmp_path / 'empty/lonely.pth')
    found, alone = find_sources([tmp_path])
    assert sorted(names(found)) == [('a_2024.pth', 'a.py'), ('a_large_2024.pth', 'a_large.py')]
    assert sorted(path.name for path in alone) == ['lonely.pth', 'other.pth']


def test_hidden_folders_and_folders_named_twice(tmp_path):
    for folder in ('.hidden', 'seen'):
        touch(tmp_path / folder / 'cfg.py')
        touch(tmp_path / folder / 'x.pth')
    found, _ = find_sources([tmp_path, tmp_path / 'seen'])
    assert [source.checkpoint.parent.name for source in found] == ['seen']


def test_what_was_named_must_exist(tmp_path):
    with pytest.raises(UserError, match=r'no folder .*absent'):
        find_sources([tmp_path / 'absent'])
    with pytest.raises(UserError, match=r'no file .*absent\.py'):
        one_source(tmp_path / 'absent.py', tmp_path / 'absent.pth')


def test_few_models_stay_in_memory_and_a_changed_file_is_loaded_again(folders):
    sources, _ = find_sources([folders])
    usable = [source for source in sources if source.checkpoint.name != 'iter_1.pth']
    models = Models([*usable, UNTRAINED], kept=2)
    freshness = []
    for key in ('0', '0', '1', '2', '1', '0'):
        with models.use(key) as (_, fresh):
            freshness.append(fresh)
    assert freshness == [True, False, True, True, False, True] and models.loaded == ['1', '0']
    checkpoint = usable[0].checkpoint
    os.utime(checkpoint, (10**9, 10**9))
    with models.use('0') as (loaded, fresh):
        assert fresh and loaded.predictor.classes
    checkpoint.rename(checkpoint.with_suffix('.away'))
    try:
        with pytest.raises(UserError, match='was there when the page started'), models.use('0'):
            pass
    finally:
        checkpoint.with_suffix('.away').rename(checkpoint)


@pytest.mark.parametrize('plain', [False, True])
def test_predictions_come_from_an_optimised_copy_and_filters_from_the_model(plain):
    models = Models([UNTRAINED], plain=plain)
    with models.use('0') as (loaded, _):
        assert type(loaded.predictor.model).__name__ == ('EncoderDecoder' if plain else 'OptimizedEncoderDecoder')
        assert loaded.filters.layers[0]['name'].startswith('backbone.stages.2.0.gnconv.dwconv')


def test_nobody_gets_a_model_after_the_end():
    models = Models([UNTRAINED])
    models.close()
    with pytest.raises(UserError, match='ending'), models.use('0'):
        pass
