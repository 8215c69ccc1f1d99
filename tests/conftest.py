import signal

import pytest
import torch

# A job in the background inherits "ignore" for Ctrl-C, and would hand it on to every process that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)
