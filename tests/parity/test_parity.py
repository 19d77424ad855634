"""100 steps of thunder.train_step against eager PyTorch: every loss, gradient norm, final parameter and running statistic, on one
rank and on two (each with its own data) against one eager process on the joined batch.

f64: losses and parameters within 1e-9. f32: losses within 1e-5 relative, parameters within 1e-5; key biases, whose true gradient
is zero, within 1e-3. `pytest -rP tests/parity` prints the largest differences, and in f32 those of eager PyTorch against itself with
the rows in reverse order and one thread, which is what rounding alone does."""
import functools
import os
import subprocess
import sys

import pytest
import torch

import models

HERE = os.path.dirname(os.path.abspath(__file__))
ONE = [case for model in models.MODELS for dtype in ("f64", "f32") for case in models.cases(model, dtype, 1)]
TWO = [case for model in models.MODELS for dtype in ("f64", "f32") for case in models.cases(model, dtype, 2)]


def ids(cases):
    return [case.file() for case in cases]


class Difference:
    """The largest differences between two results, and the sentences on those that are too large."""

    def __init__(self, case, want, got):
        f64 = case.dtype == "f64"
        self.problems, self.figures = [], {}
        losses = torch.tensor(want.losses, dtype=torch.float64), torch.tensor(got.losses, dtype=torch.float64)
        if losses[0].shape != losses[1].shape:  # the reference's loss is that of the joined batch
            losses = tuple(x.mean(-1, keepdim=True) for x in losses)
        assert losses[0].shape == losses[1].shape == (case.steps, case.accumulate, losses[0].shape[2])
        difference = (losses[0] - losses[1]).abs()
        self.add("loss", difference if f64 else difference / losses[0].abs(), 1e-9 if f64 else 1e-5)
        norms = torch.tensor(want.norms, dtype=torch.float64), torch.tensor(got.norms, dtype=torch.float64)
        self.add("gradient norm", (norms[0] - norms[1]).abs() / norms[0], 1e-9 if f64 else 1e-5)
        assert list(want.parameters) == list(got.parameters) and len(want.buffers) == len(got.buffers)
        self.tensors("parameter", case, want.parameters, got.parameters)
        for a, b in zip(want.buffers, got.buffers):
            self.tensors("buffer", case, a, b)

    def add(self, what, difference, bound, name=""):
        worst = difference.max().item()
        self.figures[what] = max(worst, self.figures.get(what, 0.0))
        if not worst <= bound:  # not a number is too large
            self.problems.append(f"{what} {name} differs by {worst:.2e}, at most {bound:.0e} are legal")

    def tensors(self, what, case, want, got):
        for name in want:
            assert want[name].dtype == got[name].dtype and want[name].shape == got[name].shape
            difference = (want[name].double() - got[name].double()).abs()
            if case.dtype == "f32" and name.endswith("qkv.bias"):
                keys = slice(models.WIDTH, 2 * models.WIDTH)
                self.add("key bias", difference[keys], 1e-3, name)
                difference = torch.cat((difference[:models.WIDTH], difference[2 * models.WIDTH:]))
            self.add(what, difference, 1e-9 if case.dtype == "f64" else 1e-5, name)

    def __str__(self):
        return ", ".join(f"{what} {figure:.1e}" for what, figure in self.figures.items())


@functools.cache
def eager(case, fault=None):
    return models.train_eager(case, fault)


@functools.cache
def thunder_alone(case):
    return models.train_thunder(case)


def check(case, got):
    want = eager(case)
    found = Difference(case, want, got)
    acted = sum(norm > models.CLIP[case.model] for norm in want.norms)
    print(f"{case}: thunder against eager: {found}; clipping acted on {acted} of {len(want.norms)} steps")
    if case.dtype == "f32":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            print(f"    eager against itself: {Difference(case, want, models.train_eager(case, reverse=True))}")
        finally:
            torch.set_num_threads(threads)
    assert acted >= 90 and sum(norm > models.CLIP[case.model] for norm in got.norms) == acted
    first, last = (sum(sum(map(sum, losses), 0.0) for losses in part) for part in (want.losses[:10], want.losses[-10:]))
    assert last < first, "the reference does not learn: it is no test"
    assert not found.problems, "\n".join(found.problems)


@pytest.mark.parametrize("case", ONE, ids=ids(ONE))
def test_one_rank(case):
    check(case, thunder_alone(case))


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory):
    """case -> the joined results of two ranks; all cases of a model and dtype are one job."""
    done = {}

    def results(case):
        key = case.model, case.dtype
        if key not in done:
            folder = tmp_path_factory.mktemp("-".join(key))
            run = os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderrun")
            ended = subprocess.run([run, "-n", "2", os.path.join(HERE, "rank.py"), str(folder), *key], capture_output=True, text=True,
                                   env=dict(os.environ, PYTHON_EXEC=sys.executable), timeout=200)
            done[key] = folder, ended
        folder, ended = done[key]
        assert ended.returncode == 0, ended.stderr
        return models.joined([torch.load(folder / f"{case.file()}.rank{rank}.pt", weights_only=False) for rank in range(2)])
    return results


@pytest.mark.parametrize("case", TWO, ids=ids(TWO))
def test_two_ranks(case, two_ranks):
    check(case, two_ranks(case))


# What each fault must change; clipping hides a factor on all gradients from the parameters, so the norm has to tell.
TEETH = [("no_decay", "adamw", "gpt", 1, 1), ("no_decay", "sgd", "llama", 1, 1), ("no_bias_correction", "adamw", "llama", 1, 1),
         ("sum_of_micro_batches", "sgd", "gpt", 4, 1), ("sum_of_micro_batches", "adamw", "cnn", 4, 1),
         ("sum_of_ranks", "adamw", "gpt", 1, 2), ("sum_of_ranks", "sgd", "cnn", 1, 2),
         ("one_rank_alone", "adamw", "llama", 1, 2), ("stale_statistics", "sgd", "cnn", 1, 1), ("stale_statistics", "adamw", "cnn", 4, 2)]


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize("fault, optimizer, model, accumulate, world", TEETH, ids=lambda x: str(x))
def test_teeth(fault, optimizer, model, accumulate, world, dtype, two_ranks):
    """The same comparison against a reference with one named fault must fail."""
    case = models.Case(model, optimizer, accumulate, dtype, world)
    got = thunder_alone(case) if world == 1 else two_ranks(case)
    assert not Difference(case, eager(case), got).problems
    found = Difference(case, eager(case, fault), got)
    print(f"{case} with {fault}: {found}")
    assert found.problems, f"{fault} went unnoticed"
    expected = {"stale_statistics": "buffer", "sum_of_micro_batches": "gradient norm", "sum_of_ranks": "gradient norm"}.get(fault, "parameter")
    assert any(problem.startswith(expected) for problem in found.problems)


@pytest.mark.parametrize("model", models.MODELS)
def test_resume_is_bit_for_bit(model, tmp_path):
    """Model, optimizer and scheduler loaded from a checkpoint at step 37 go on with the same losses, norms and parameters."""
    case = models.Case(model, "adamw", 4 if model == "gpt" else 1, "f32")
    whole = thunder_alone(case)
    first = models.train_thunder(case, slices=range(37), save=tmp_path / "checkpoint.pt")
    second = models.train_thunder(case, slices=range(37, case.steps), load=tmp_path / "checkpoint.pt")
    assert first.losses + second.losses == whole.losses and first.norms + second.norms == whole.norms
    for name, value in whole.parameters.items():
        assert torch.equal(second.parameters[name], value), name
    for name, value in whole.buffers[0].items():
        assert torch.equal(second.buffers[0][name], value), name
