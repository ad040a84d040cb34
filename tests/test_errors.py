import pytest

import mmfreq
from mmfreq.compat.safe_load import read_checkpoint
from mmfreq.errors import DataError, UserError, short_user_errors


@pytest.mark.parametrize('error', [UserError('do this'), DataError('do this')])
def test_user_error_is_one_message_and_status_2(error, capsys):
    with pytest.raises(SystemExit) as end, short_user_errors():
        raise error
    assert end.value.code == 2
    assert capsys.readouterr().err == 'error: do this\n'


@pytest.mark.parametrize('call', [lambda: mmfreq.build_backbone('hornet-tini'), lambda: read_checkpoint('none.pth')])
def test_value_errors_of_mmfreq_are_user_errors(call, capsys):
    with pytest.raises(SystemExit), short_user_errors():
        call()
    assert capsys.readouterr().err.startswith('error: ')


@pytest.mark.parametrize('call', [lambda: int('x'), lambda: {}['x'], lambda: (_ for _ in ()).throw(RuntimeError('bug'))])
def test_other_errors_keep_their_traceback(call):
    with pytest.raises((ValueError, KeyError, RuntimeError)), short_user_errors():
        call()
