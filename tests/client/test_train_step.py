"""thunder.train_step against eager PyTorch over steps, in f64: losses and final parameters."""
import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import thunder

pytestmark = pytest.mark.quick


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(17, 8)
        self.a, self.norm, self.b = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 17)

    def forward(self, x):
        return self.b(F.gelu(self.norm(self.a(self.embedding(x)))))


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(F.max_pool2d(F.relu(self.bn(self.conv(x))), 2).mean((2, 3)))


def loss_fn(out, y):
    return F.cross_entropy(out.flatten(0, -2), y.flatten())


def batches(kind, n):
    generator = torch.Generator().manual_seed(3)
    for _ in range(n):
        if kind == "net":
            yield torch.randint(0, 17, (4, 6), generator=generator), torch.randint(0, 17, (4, 6), generator=generator)
        else:
            yield torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64), torch.randint(0, 5, (4,), generator=generator)


def groups(model):
    decayed = [p for p in model.parameters() if p.dim() > 1]
    return [{"params": decayed, "weight_decay": 0.1}, {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0}]


OPTIMIZERS = {
    "sgd": lambda m: torch.optim.SGD(groups(m), lr=1e-2, momentum=0.9),
    "sgd_nesterov": lambda m: torch.optim.SGD(groups(m), lr=1e-2, momentum=0.9, nesterov=True),
    "plain_sgd": lambda m: torch.optim.SGD(groups(m), lr=1e-2),
    "adam": lambda m: torch.optim.Adam(groups(m), lr=1e-2),
    "adamw": lambda m: torch.optim.AdamW(groups(m), lr=1e-2),
    "amsgrad": lambda m: torch.optim.AdamW(groups(m), lr=1e-2, amsgrad=True),
}


def run_eager(model, optimizer, scheduler, data, accumulate, clip):
    losses, norms = [], []
    for i, (x, y) in enumerate(data):
        loss = loss_fn(model(x), y)
        (loss / accumulate).backward()
        losses.append(loss.item())
        if (i + 1) % accumulate == 0:
            if clip:
                norms.append(nn.utils.clip_grad_norm_(model.parameters(), clip).item())
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    return losses, norms


def run_thunder(model, optimizer, scheduler, data, accumulate, clip):
    step = thunder.train_step(model, optimizer, loss_fn, clip_grad_norm=clip, accumulate=accumulate)
    losses, norms = [], []
    for i, (x, y) in enumerate(data):
        losses.append(step(x, y).item())
        if (i + 1) % accumulate == 0:
            if clip:
                norms.append(step.grad_norm.item())
            scheduler.step()
    return losses, norms


def pair(kind, optimizer, accumulate=1, clip=None, steps=24, spoil=None):
    torch.manual_seed(0)
    model = (Net() if kind == "net" else Conv()).double()
    other = copy.deepcopy(model)
    results = []
    for m, run in ((model, run_eager), (other, run_thunder)):
        o = OPTIMIZERS[optimizer](m)
        if spoil and run is run_thunder:
            spoil(o)
        s = torch.optim.lr_scheduler.StepLR(o, 5, 0.7)
        results.append((*run(m, o, s, batches(kind, steps), accumulate, clip), m.state_dict(), o.state_dict()["state"]))
    return results


def difference(a, b):
    worst = max(abs(x - y) for x, y in zip(a[0] + a[1], b[0] + b[1]))
    assert list(a[2]) == list(b[2])
    for k in a[2]:
        worst = max(worst, (a[2][k].double() - b[2][k].double()).abs().max().item())
    assert a[3].keys() == b[3].keys()
    for i in a[3]:
        assert list(k for k, v in a[3][i].items() if v is not None) == list(k for k, v in b[3][i].items() if v is not None)
        for k, v in a[3][i].items():
            if v is not None:
                assert v.dtype == b[3][i][k].dtype
                worst = max(worst, (v.double() - b[3][i][k].double()).abs().max().item())
    return worst


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer):
    assert difference(*pair("net", optimizer, clip=0.5)) < 1e-9


@pytest.mark.parametrize("accumulate", [1, 4])
def test_accumulate(accumulate):
    assert difference(*pair("net", "adamw", accumulate, clip=0.3)) < 1e-9


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_batch_norm(optimizer):
    assert difference(*pair("conv", optimizer)) < 1e-9


def test_teeth():
    def no_decay(o):
        for g in o.param_groups:
            g["weight_decay"] = 0.0

    def other_rate(o):
        o.param_groups[0]["lr"] *= 1.001
    assert difference(*pair("net", "adamw", spoil=no_decay)) > 1e-6
    assert difference(*pair("net", "sgd", spoil=other_rate)) > 1e-6


def test_flush_eval_and_structures():
    torch.manual_seed(0)
    model = Net().double()
    other = copy.deepcopy(model)
    o = torch.optim.SGD(model.parameters(), lr=0.1)
    p = torch.optim.SGD(other.parameters(), lr=0.1)
    step = thunder.train_step(other, p, lambda out, y: {"loss": loss_fn(out, y), "top": out.argmax(-1)}, accumulate=4)
    data = list(batches("net", 2))
    for x, y in data:
        (loss_fn(model(x), y) / 2).backward()
        got = step(x, y)
        assert set(got) == {"loss", "top"} and not got["loss"].requires_grad
        assert torch.equal(got["top"], model(x).argmax(-1))
    o.step()
    step.flush()
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    x, y = data[0]
    torch.testing.assert_close(step.eval(x, y)["loss"], loss_fn(model(x), y).detach(), rtol=1e-12, atol=1e-12)


def test_resume_is_bit_for_bit(tmp_path):
    def run(steps, load=None, save=None):
        torch.manual_seed(0)
        model = Net()
        o = torch.optim.AdamW(model.parameters(), lr=1e-2)
        if load:
            saved = torch.load(load)
            model.load_state_dict(saved["model"])
            o.load_state_dict(saved["optimizer"])
        step = thunder.train_step(model, o, loss_fn)
        losses = [step(x, y).item() for x, y in list(batches("net", 12))[steps]]
        if save:
            torch.save({"model": model.state_dict(), "optimizer": o.state_dict()}, save)
        return losses
    whole = run(slice(0, 12))
    first = run(slice(0, 6), save=tmp_path / "c.pt")
    assert first + run(slice(6, 12), load=tmp_path / "c.pt") == whole


def test_precision_names_what_the_parameters_must_be():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2).double())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"precision='f32': parameter 1.weight is torch.float64"):
        thunder.train_step(model, optimizer, loss_fn, precision="f32")
    with pytest.raises(ValueError, match="want None .* or 'f16-mixed'"):
        thunder.train_step(model, optimizer, loss_fn, precision="fp8")
    thunder.train_step(model.double(), optimizer, loss_fn, precision="f64")


class Rotary(nn.Module):
    """Attention whose query is brought back to a dtype by the program itself, beside values that only autocast converts."""

    def __init__(self):
        super().__init__()
        self.embedding, self.q, self.v, self.head = nn.Embedding(17, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False), nn.Linear(16, 17)
        self.register_buffer("turn", torch.rand(8))

    def forward(self, x):
        h = self.embedding(x)
        q = self.q(h).view(*x.shape, 2, 8).transpose(1, 2)
        q = (q * self.turn).to(q.dtype)
        v = self.v(h).view(*x.shape, 2, 8).transpose(1, 2)
        return self.head(F.scaled_dot_product_attention(q, q, v, is_causal=True).transpose(1, 2).flatten(-2))


def test_mixed_precision():
    torch.manual_seed(0)
    model = Rotary()
    other = copy.deepcopy(model)
    o, p = (torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (model, other))
    step = thunder.train_step(other, p, loss_fn, clip_grad_norm=1.0, precision="bf16-mixed")
    for x, y in batches("net", 6):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_fn(model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        o.step()
        o.zero_grad()
        assert step(x, y).item() == pytest.approx(loss.item(), rel=5e-3)
    assert not thunder.compile_stats(step).eager_pieces


def test_other_optimizers_run_after_the_plan():
    torch.manual_seed(0)
    model = Net().double()
    other = copy.deepcopy(model)
    o = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    with pytest.warns(UserWarning, match="RMSprop runs in eager"):
        step = thunder.train_step(other, torch.optim.RMSprop(other.parameters(), lr=1e-3), loss_fn, clip_grad_norm=0.5)
    for x, y in batches("net", 5):
        loss = loss_fn(model(x), y)
        o.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        o.step()
        assert abs(step(x, y).item() - loss.item()) < 1e-10


class Deep(nn.Module):
    """80 layers that are one fusion but for what a kernel can hand out."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.w = kind, nn.Parameter(torch.rand(4, 5, generator=torch.Generator().manual_seed(1)))

    def forward(self, x):
        for i in range(80):
            x = torch.tanh(x * self.w)
            if self.kind == "rows":
                x = x - x.mean(-1, keepdim=True)
        return x.sum()


@pytest.mark.parametrize("kind", ["plain", "rows"])
def test_more_results_than_a_kernel_has(kind):
    model = Deep(kind).double()
    other = copy.deepcopy(model)
    o, p = (torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, other))
    step = thunder.train_step(other, p)
    for i in range(3):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        o.zero_grad()
        loss = model(x)
        loss.backward()
        o.step()
        torch.testing.assert_close(step(x), loss.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(other.w, model.w, rtol=1e-10, atol=1e-10)


@pytest.mark.quick
@pytest.mark.parametrize("change", ["load_state_dict", "lr", "betas", "clip", "state emptied", "weight_decay", "freeze", "parameter data", "group moved"])
def test_what_changes_between_calls_counts(change):
    """A step keeps its inputs in place from call to call: whatever a program may exchange is seen all the same."""
    torch.manual_seed(3)
    ours = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    theirs = copy.deepcopy(ours)
    made = [torch.optim.AdamW([{"params": m[0].parameters()}, {"params": m[2].parameters(), "lr": 3e-2}], lr=1e-2, weight_decay=0.1) for m in (ours, theirs)]
    step = thunder.train_step(ours, made[0], F.cross_entropy, clip_grad_norm=0.3)
    clip = 0.3
    saved = copy.deepcopy(made[0].state_dict())
    for i in range(6):
        if i == 2:
            saved = copy.deepcopy(made[0].state_dict())
        if i == 4:
            for optimizer, model in zip(made, (ours, theirs)):
                if change == "load_state_dict":
                    optimizer.load_state_dict(copy.deepcopy(saved))
                elif change == "lr":
                    optimizer.param_groups[0]["lr"] = 0.2
                elif change == "betas":
                    optimizer.param_groups[1]["betas"] = (0.5, 0.6)
                elif change == "state emptied":
                    optimizer.state.clear()
                elif change == "weight_decay":
                    optimizer.param_groups[0]["weight_decay"] = 0
                elif change == "freeze":
                    model[0].weight.requires_grad_(False)
                elif change == "parameter data":
                    model[2].weight.data = model[2].weight.data.clone() + 1
                elif change == "group moved":
                    optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop())
            if change == "clip":
                step.clip = clip = 0.01
        x, y = torch.randn(5, 6), torch.randint(0, 4, (5,))
        loss = step(x, y)
        theirs.zero_grad()
        expected = F.cross_entropy(theirs(x), y)
        expected.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        made[1].step()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(step.grad_norm, norm, rtol=1e-5, atol=1e-6)
        for p, q in zip(ours.parameters(), theirs.parameters()):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
