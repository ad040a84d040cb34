"""One thread: models this small are slower on two, the more so on a busy machine."""

import pytest
import torch


@pytest.fixture(scope='package', autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
