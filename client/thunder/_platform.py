"""Where the package runs: Linux, CPython 3.10 to 3.13, PyTorch 2.11 or newer, and no other package of the same name."""
import contextlib
import gc
import importlib.metadata
import os
import sys


def check():
    """Raises ImportError in one sentence where the package cannot run."""
    if not sys.platform.startswith("linux") or not (3, 10) <= sys.version_info[:2] <= (3, 13):
        raise ImportError(f"thunder runs on Linux with Python 3.10 to 3.13; this is Python {sys.version_info[0]}."
                          f"{sys.version_info[1]} on {sys.platform}.")
    try:
        other = importlib.metadata.version("lightning-thunder")
    except importlib.metadata.PackageNotFoundError:
        other = None
    if other and os.path.exists(os.path.join(os.path.dirname(__file__), "core", "transform_common.py")):
        raise ImportError(f"lightning-thunder {other} is installed over thunder-runtime, both are imported as `thunder`: "
                          "pip uninstall lightning-thunder, then pip install --force-reinstall thunder-runtime.")
    if other:
        import warnings
        warnings.warn(f"lightning-thunder {other} is installed too and is also imported as `thunder`; this is thunder-runtime. "
                      "Uninstall one of them.", stacklevel=3)
    try:
        importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError("thunder needs PyTorch: pip install torch (2.11 or newer).") from None


@contextlib.contextmanager
def imports():
    """Imports without the garbage collector, which would go through PyTorch's modules again and again, here and in the first
    compile (0.3 s of each process). What lives at the end is old from then on, as if it had been collected."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        gc.enable()
