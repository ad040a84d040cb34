import pytest

from tests.integrations.toy_detection import write_data


@pytest.fixture(scope='session')
def coco(tmp_path_factory):
    """The folder of `toy_detection.write_data`."""
    root = tmp_path_factory.mktemp('coco')
    write_data(root)
    return root
