"""The search for pairs of config and checkpoint, and the models in memory."""

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


def test_checkpoints_of_a_work_dir_are_listed_newest_first(tmp_path):
    for path in ('run/cfg.py', 'run/iter_200.pth', 'run/iter_1000.pth', 'run/20250101/vis_data/config.py', 'run/notes.txt'):
        touch(tmp_path / path)
    touch(tmp_path / 'run/best_mIoU_iter_800.pth', age=5)
    found, without_config = find_sources([tmp_path])
    assert [name for name, _ in names(found)] == ['iter_1000.pth', 'iter_200.pth', 'best_mIoU_iter_800.pth']
    assert {config for _, config in names(found)} == {'cfg.py'} and without_config == []


def test_of_several_configs_the_one_with_the_matching_name_is_used(tmp_path):
    for name in ('a.py', 'a_large.py', 'a_large_2024.pth', 'a_2024.pth', 'other.pth'):
        touch(tmp_path / name)
    touch(tmp_path / 'empty/lonely.pth')
    found, without_config = find_sources([tmp_path])
    assert sorted(names(found)) == [('a_2024.pth', 'a.py'), ('a_large_2024.pth', 'a_large.py')]
    assert sorted(path.name for path in without_config) == ['lonely.pth', 'other.pth']


def test_hidden_and_repeated_folders_are_skipped(tmp_path):
    for folder in ('.hidden', 'seen'):
        touch(tmp_path / folder / 'cfg.py')
        touch(tmp_path / folder / 'x.pth')
    found, _ = find_sources([tmp_path, tmp_path / 'seen'])
    assert [source.checkpoint.parent.name for source in found] == ['seen']


def test_error_names_the_missing_folder_or_file(tmp_path):
    with pytest.raises(UserError, match=r'no folder .*absent'):
        find_sources([tmp_path / 'absent'])
    with pytest.raises(UserError, match=r'no file .*absent\.py'):
        one_source(tmp_path / 'absent.py', tmp_path / 'absent.pth')


def test_number_of_loaded_models_is_bounded_and_changed_files_are_reloaded(folders):
    sources, _ = find_sources([folders])
    usable = [source for source in sources if source.checkpoint.name != 'iter_1.pth']
    models = Models([*usable, UNTRAINED], max_loaded=2)
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
        with pytest.raises(UserError, match='existed when the page started'), models.use('0'):
            pass
    finally:
        checkpoint.with_suffix('.away').rename(checkpoint)


@pytest.mark.parametrize('plain', [False, True])
def test_predictions_use_the_optimized_copy_and_filters_the_model(plain):
    models = Models([UNTRAINED], plain=plain)
    with models.use('0') as (loaded, _):
        assert type(loaded.predictor.model).__name__ == ('EncoderDecoder' if plain else 'OptimizedEncoderDecoder')
        assert loaded.filters.layers[0]['name'].startswith('backbone.stages.2.0.gnconv.dwconv')


def test_closed_models_refuse_requests():
    models = Models([UNTRAINED])
    models.close()
    with pytest.raises(UserError, match='shutting down'), models.use('0'):
        pass
