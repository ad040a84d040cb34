import pytest

from mmfreq.engine.launch import prepare_train
from mmfreq.errors import UserError


@pytest.mark.parametrize('kind', ['FSDPStrategy', 'mmengine.FSDPStrategy'])
def test_a_strategy_that_cannot_resume_is_refused_before_anything_is_written(toy_config, tmp_path, kind):
    """tests/tools/test_distributed_options.py shows what it would come to."""
    with pytest.raises(UserError, match=r'FSDPStrategy.*cannot resume'):
        prepare_train(toy_config, work_dir=tmp_path / 'work', cfg_options={'strategy': {'type': kind}})
    assert not (tmp_path / 'work').exists()
