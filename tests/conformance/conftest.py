import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="session")
def ref():
    from refrun import RefRun
    runner = RefRun()
    yield runner
    runner.close()


@pytest.fixture(autouse=True)
def fresh_dynamo():
    import torch
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
