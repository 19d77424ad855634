"""Wrong arguments: an error at once, of the right type, that names the argument and says what was expected."""
import re

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import thunder

pytestmark = pytest.mark.quick


def parts():
    model = nn.Linear(3, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def refused(error, match, **changed):
    model, optimizer = parts()
    given = {"model": model, "optimizer": optimizer, "loss_fn": F.mse_loss, **changed}
    with pytest.raises(error, match=match):
        thunder.train_step(**given)


def test_model():
    model, optimizer = parts()
    refused(TypeError, r"^model is the class Linear; want a torch.nn.Module: an instance, Linear\(...\)", model=nn.Linear)
    refused(TypeError, "^model is a function; want a torch.nn.Module", model=lambda x: x)
    refused(TypeError, "^model is None; want a torch.nn.Module", model=None)
    refused(TypeError, r"^model is the optimizer SGD; .*the order is thunder.train_step\(model, optimizer, loss_fn\)", model=optimizer, optimizer=model)
    refused(TypeError, "^model was made by thunder.compile; pass the original", model=thunder.compile(model), optimizer=optimizer)


def test_distributed_data_parallel():
    model, optimizer = parts()
    wrapped = object.__new__(nn.parallel.DistributedDataParallel)  # a real one wants a process group
    nn.Module.__init__(wrapped)
    wrapped.module = model
    refused(TypeError, "^model is a DistributedDataParallel; pass the original module, model.module", model=wrapped, optimizer=optimizer)


def test_optimizer():
    model, optimizer = parts()
    refused(TypeError, r"^optimizer is the class SGD; want an instance: SGD\(model.parameters\(\), lr=...\)", optimizer=torch.optim.SGD)
    refused(TypeError, "^optimizer is None; want a torch.optim.Optimizer$", optimizer=None)
    refused(TypeError, "^optimizer is a list; want a torch.optim.Optimizer$", optimizer=list(model.parameters()))
    refused(TypeError, "^optimizer is a function; .*the order is", optimizer=F.mse_loss, loss_fn=optimizer)
    refused(ValueError, "^optimizer: LBFGS needs a closure", model=model, optimizer=torch.optim.LBFGS(model.parameters()))
    refused(ValueError, "^optimizer: none of its 2 parameters belongs to the model", optimizer=parts()[1])


def test_optimizers_of_a_part_are_taken():
    body, head = nn.Linear(3, 3), nn.Linear(3, 2)
    whole = nn.Sequential(body, head)
    thunder.train_step(whole, torch.optim.SGD(head.parameters(), lr=0.1), F.mse_loss)
    others = [*head.parameters(), nn.Parameter(torch.ones(3))]
    thunder.train_step(whole, torch.optim.SGD(others, lr=0.1), F.mse_loss)

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(3, 2)

        def forward(self, features, y):
            return F.mse_loss(self.out(features), y)
    loss_fn = Head()
    optimizer = torch.optim.SGD(loss_fn.parameters(), lr=0.1)
    thunder.train_step(body, optimizer, loss_fn)  # what is trained is the loss's
    body.requires_grad_(False)
    step = thunder.train_step(body, optimizer, lambda out, y: loss_fn(out, y))
    x, y = torch.randn(4, 3), torch.randn(4, 2)
    assert float(step(x, y)) > float(step(x, y))


def test_loss_fn():
    refused(TypeError, r"^loss_fn is the class MSELoss; want a function or an instance: MSELoss\(\)", loss_fn=nn.MSELoss)
    refused(TypeError, "^loss_fn is 'mse'; want a function", loss_fn="mse")
    thunder.train_step(*parts(), nn.MSELoss())
    thunder.train_step(*parts())


def test_batches_that_the_model_does_not_take():
    model = torch.nn.Linear(3, 2)
    x = torch.randn(4, 3)
    with_target = thunder.train_step(model, torch.optim.SGD(model.parameters(), 0.1), lambda y, t: (y - t).sum())
    without = thunder.train_step(model, torch.optim.SGD(model.parameters(), 0.1))
    for call, said in ((lambda: with_target(x), "step(x, y)"), (with_target, "without positional arguments"), (lambda: with_target.eval(x), "leave loss_fn out"),
                       (lambda: without(x, x), "too many positional arguments"), (lambda: with_target(x, x, key=1), "Linear.forward")):
        with pytest.raises(TypeError, match=re.escape(said)):
            call()
    other = thunder.compile(lambda x: x + 1)
    other(x)
    assert not thunder.compile_stats(other).eager_pieces  # nothing of the step's


def test_clip_grad_norm():
    for value in (0, 0.0, -1, float("nan"), float("inf")):
        refused(ValueError, "^clip_grad_norm=.*: want a finite number above 0, or None", clip_grad_norm=value)
    for value in (True, "1.0", [1.0]):
        refused(TypeError, "^clip_grad_norm is .*; want None .* or a number above 0", clip_grad_norm=value)
    for value in (None, 1, 0.5):
        thunder.train_step(*parts(), F.mse_loss, clip_grad_norm=value)


def test_executors_and_passes():
    refused(TypeError, r"^executors='cpu': want a list of names, not one string; try executors=\['cpu'\]", executors="cpu")
    with pytest.raises(TypeError, match="^executors='cpu': want a list"):
        thunder.compile(torch.sin, executors="cpu")
    with pytest.raises(TypeError, match="^executors=.*: want a list or tuple of names"):
        thunder.compile(torch.sin, executors=[1])
    with pytest.raises(TypeError, match=r"^disabled_passes='fuse': .*try disabled_passes=\['fuse'\]"):
        thunder.compile(torch.sin, disabled_passes="fuse")
    with pytest.raises(ValueError, match="there is no pass 'fusion'; there are number, .*fuse, .*memory_plan"):
        thunder.compile(torch.sin, disabled_passes=["cse", "fusion"])
    thunder.compile(torch.sin, executors=("cpu",), disabled_passes=["cse"])


def test_flags_of_compile():
    for value in (1, "yes", 0):
        with pytest.raises(TypeError, match="^dynamic=.*: want None, True or False"):
            thunder.compile(torch.sin, dynamic=value)
    for value in (1, None, "no"):
        with pytest.raises(TypeError, match="^fullgraph=.*: want True or False"):
            thunder.compile(torch.sin, fullgraph=value)
    with pytest.raises(TypeError, match="^dynamic="):
        thunder.compile(dynamic="auto")  # as a decorator


def test_region_of_last_traces():
    f = thunder.compile(lambda a: a * 2)
    with pytest.raises(RuntimeError, match="nothing has been compiled yet"):
        thunder.last_traces(f)
    f(torch.ones(3))
    assert thunder.last_traces(f, region=0) == thunder.last_traces(f)
    for region in (1, -2):
        with pytest.raises(IndexError, match=rf"^region={region}: there is 1 graph, number 0"):
            thunder.last_traces(f, region=region)
    with pytest.raises(TypeError, match="^region='first'"):
        thunder.last_traces(f, region="first")


def test_options_of_torch_compile():
    x = torch.ones(3)
    for error, match, given in [(ValueError, "has no option 'executor'; it has executors, disabled_passes, fullgraph", {"options": {"executor": ["cpu"]}}),
                                (TypeError, "^executors='cpu': want a list", {"options": {"executors": "cpu"}}),
                                (ValueError, "^mode='reduce-overhead': backend \"thunder\" has no modes", {"mode": "reduce-overhead"})]:
        torch._dynamo.reset()
        with pytest.raises(error, match=match):
            torch.compile(lambda a: a + 1, backend="thunder", **given)(x)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(lambda a: a + 1, backend="thunder", options={"executors": ["cpu"], "fullgraph": True})(x), x + 1)
