"""All tests: a daemon of the session's own, with a cache of its own and every pass verified; it ends with the session."""
import os
import shutil
import subprocess
import tempfile

import pytest

_OWN = tempfile.mkdtemp(prefix="thunder-tests-")
os.environ["THUNDER_RUNTIME_DIR"] = os.path.join(_OWN, "run")
os.environ["THUNDER_CACHE_DIR"] = os.path.join(_OWN, "cache")
os.environ["THUNDER_VERIFY"] = "1"
os.makedirs(os.environ["THUNDER_RUNTIME_DIR"], mode=0o700)


@pytest.fixture(scope="session", autouse=True)
def own_daemon():
    yield
    subprocess.run([os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderctl"), "stop"], capture_output=True, timeout=30)
    shutil.rmtree(_OWN, ignore_errors=True)
