"""The helpers of the config tests report failures and return copies."""

import pytest
from mmengine.config import Config

from tests.configs.names import LEAFS
from tests.configs.reading import check_each, configs_parsed_once, read_config


def test_every_failure_is_in_the_message():
    def check(number):
        assert number % 2 == 0
        return 1 / number

    with pytest.raises(AssertionError) as error:
        check_each([0, 1, 2, 3], check, label='case {}'.format)
    message = str(error.value)
    assert all(f'case {n}: ' in message for n in (0, 1, 3)) and 'case 2' not in message
    assert 'ZeroDivisionError' in message and '3 of 4' in message
    check_each([2, 4], check, label=str)
    with pytest.raises(AssertionError):
        check_each([], check)


def test_configs_are_copies_and_other_files_are_read_again(tmp_path):
    first = read_config(LEAFS[0])
    first.model.type = 'changed'
    assert read_config(LEAFS[0]).to_dict() == Config.fromfile(LEAFS[0]).to_dict() != first.to_dict()
    with configs_parsed_once():
        for value in (1, 2):
            (tmp_path / 'mine.py').write_text(f'value = {value}')
            assert Config.fromfile(tmp_path / 'mine.py').value == value
        assert Config.fromfile(LEAFS[0]).filename == str(LEAFS[0])
