"""100 steps of training against eager PyTorch on the joined batch: losses, gradient norms, parameters and running statistics,
on one rank and on two with different data, in f64 and f32. The largest differences are printed (pytest -rP)."""
import os
import subprocess
import sys

import pytest
import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import training  # noqa: E402

LIMITS = {  # loss and norm relative, parameters absolute, key biases (true gradient zero) absolute
    "f64": {"loss": 1e-9, "norm": 1e-9, "parameter": 1e-9, "key bias": 1e-9},
    "f32": {"loss": 1e-5, "norm": 1e-5, "parameter": 1e-5, "key bias": 1e-3},
}


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield


def differences(want, got):
    """Largest difference of each kind."""
    worst = {"loss": 0.0, "norm": 0.0, "parameter": 0.0, "key bias": 0.0}
    assert len(want[0]) == len(got[0]) == training.STEPS and len(want[1]) == len(got[1]) and list(want[2]) == list(got[2])
    for kind, a, b in (("loss", want[0], got[0]), ("norm", want[1], got[1])):
        worst[kind] = max(abs(x - y) / abs(x) for x, y in zip(a, b))
    for name, a in want[2].items():
        d = (a.double() - got[2][name].double()).abs()
        if name == "qkv.bias":
            key = slice(training.WIDTH, 2 * training.WIDTH)
            worst["key bias"] = max(worst["key bias"], d[key].max().item())
            d = torch.cat((d[:training.WIDTH], d[2 * training.WIDTH:]))
        worst["parameter"] = max(worst["parameter"], d.max().item())
    return worst


def check(config, want, got):
    clipped = sum(n > training.CLIP[config.split("-")[0]] for n in want[1]) / len(want[1])
    assert clipped > 0.8, f"clipping acts on {clipped:.0%} of the updates only"
    worst, limits = differences(want, got), LIMITS[config[-3:]]
    print(config, {k: f"{v:.1e}" for k, v in worst.items()})
    over = {k: v for k, v in worst.items() if v > limits[k]}
    assert not over, f"{config}: {over}, limits {limits}"


@pytest.mark.parametrize("config", training.CONFIGS)
def test_one_rank(config):
    check(config, training.eager(config, 1), training.compiled(config))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_ranks")
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "training.py")
    thunderrun = os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderrun")
    done = subprocess.run([thunderrun, "-n", "2", sys.executable, program, str(folder), *training.CONFIGS], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("config", training.CONFIGS)
def test_two_ranks(config, two_ranks):
    ranks = [torch.load(two_ranks / f"{config}-rank{r}.pt") for r in range(2)]
    losses = [(a + b) / 2 for a, b in zip(ranks[0][0], ranks[1][0])]
    check(config, training.eager(config, 2), (losses, ranks[0][1], ranks[0][2]))
    statistics = {name for name in ranks[0][2] if "running" in name}
    for name, value in ranks[0][2].items():
        if name not in statistics:
            assert torch.equal(value, ranks[1][2][name]), f"{name} differs between the ranks"


@pytest.mark.parametrize("fault", training.FAULTS)
def test_the_comparison_shows(fault):
    """Teeth: with one of these faults in the reference, the comparison fails."""
    config = training.FAULTS[fault]
    got = training.compiled(config)
    check(config, training.eager(config, 1), got)
    with pytest.raises(AssertionError, match="limits"):
        check(config, training.eager(config, 1, fault), got)
