"""thunder.profile: what is measured and said of each region, on the CPU and with CUDA's kernels run by the host."""
import copy
import inspect
import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import thunder
from thunder import profiler

pytestmark = pytest.mark.quick
FAKE_NVTX = os.path.join(os.environ.get("THUNDER_BUILD_DIR", "build"), "tests", "libfake_nvtx.so")


@pytest.fixture(params=["", "cuda:simt"], ids=["cpu", "simt"])
def target(request, monkeypatch):
    monkeypatch.setenv("THUNDER_TARGET", request.param)
    return request.param


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch):
    """The roofline of the CPU is measured once a process; here it is given."""
    monkeypatch.setattr(profiler, "host_roofline", lambda threads: profiler.Roofline("a CPU of 10 GB/s and 100 GFLOP/s", 10e9, {"f32": 100e9, "f64": 50e9, "bf16": 100e9}))


class Net(nn.Module):
    def __init__(self, width=32, layers=2):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = F.gelu(layer(x))
        return x


def trainer(model):
    return thunder.train_step(model, torch.optim.AdamW(model.parameters(), lr=1e-2), F.mse_loss, clip_grad_norm=1.0)


def profiled(fn, *args, calls=3, **options):
    fn(*args)  # of all first calls none is recorded
    with thunder.profile(fn, **options) as p:
        for _ in range(calls):
            fn(*args)
    return p


def line_of(fn, text):
    lines, first = inspect.getsourcelines(fn)
    number, = [first + i for i, line in enumerate(lines) if text in line]
    return f"{os.path.abspath(__file__)}:{number}: {lines[number - first].strip()}"


# ---- regions ----

def test_bytes_and_flops_by_hand(target):
    m, k, n = 24, 48, 40

    def foo(a, b, c):
        h = a @ b
        return torch.relu(h) * c + 1
    a, b, c = torch.randn(m, k), torch.randn(k, n), torch.randn(n)
    p = profiled(thunder.compile(foo, fullgraph=True), a, b, c)
    product, pointwise = p.regions
    assert (product.kind, product.name, product.unit, product.plan) == ("library", "dot", "f32", "forward")
    assert product.flops == 2 * m * k * n and product.bytes == 4 * (m * k + k * n + m * n)
    assert product.operator == "aten.matmul.default" and product.source == line_of(foo, "a @ b")
    assert (pointwise.kind, pointwise.flops, pointwise.unit, pointwise.flop_rate) == ("kernel", 0, "", None) and pointwise.name.startswith("th_kernel_")
    assert pointwise.bytes == 4 * (m * n + n + m * n)  # c is read once, however often it is repeated
    assert pointwise.source == line_of(foo, "torch.relu")
    assert product.bandwidth == product.bytes / product.time and product.flop_rate == product.flops / product.time
    assert product.roofline == pytest.approx(max(product.bytes / 10e9, product.flops / 100e9) / product.time)
    assert len(product.times) == 3 and product.time == sorted(product.times)[1]


def test_flops_of_attention_and_convolutions():
    b, h, t, s, d = 2, 3, 20, 28, 16

    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def convolve(x, w):
        return F.conv2d(x, w, stride=2, padding=1, groups=2)
    for rows, keys in ((t, s), (s, t)):
        q, k, v = (torch.randn(b, h, size, d, requires_grad=True) for size in (rows, keys, keys))
        compiled = thunder.compile(attend, fullgraph=True, dynamic=False)
        with thunder.profile(compiled) as p:
            for _ in range(2):
                compiled(q, k, v).sum().backward()
        flops = {r.name: r.flops for r in p.regions if r.flops}
        pairs = b * h * sum(min(i + 1, keys) for i in range(rows))
        assert flops == {"attention": 2 * pairs * 2 * d, "attention_backward": 2 * pairs * 5 * d}
    x, w = torch.randn(2, 8, 9, 9, requires_grad=True), torch.randn(6, 4, 3, 3, requires_grad=True)
    compiled = thunder.compile(convolve, fullgraph=True)
    with thunder.profile(compiled) as p:
        for _ in range(2):
            y = compiled(x, w)
            y.sum().backward()
    flops = {r.name: r.flops for r in p.regions if r.flops}
    assert flops == dict.fromkeys(("conv", "conv_grad_x", "conv_grad_w"), 2 * y.numel() * 4 * 3 * 3)


def test_a_step_has_every_instruction_and_no_more_time_than_it_took(target):
    model, x, y = Net(), torch.randn(8, 32), torch.randn(8, 32)
    step = trainer(model)
    p = profiled(step, x, y)
    plan, = step.held
    regions = p.regions
    assert p.steps == 3 and [r.index for r in regions] == list(range(plan.native.instructions)) and {r.plan for r in regions} == {"step"}
    assert all(time > 0 for r in regions for time in r.times)
    recorded, = p._recorded()
    for i, (begin, end, rows) in enumerate(recorded.calls):  # regions lie within the call, one after the other: no slack
        assert sum(r.times[i] for r in regions) <= (end - begin) * 1e-9
        assert all(row[0] < row[1] for row in rows) and begin <= min(row[0] for row in rows) and max(row[1] for row in rows) <= end
    if not target:  # the kernels of an update are batched and have no scalar programs on the cpu
        assert [row[1] <= after[0] for _, _, rows in recorded.calls for row, after in zip(rows, rows[1:])].count(False) == 0
    line = line_of(Net, "F.gelu(layer(x))")
    products = [r for r in regions if r.name == "dot"]
    assert len(products) == 5 and {r.source for r in products} == {line}  # the first layer's input has no gradient
    assert all(r.flops == 2 * 8 * 32 * 32 for r in products)


def test_grouped_regions(target):
    step = trainer(Net(layers=3))
    p = profiled(step, torch.randn(8, 32), torch.randn(8, 32))
    groups, regions = p.key_averages(), p.regions
    assert len(groups) < len(regions) and sum(g.calls for g in groups) == len(regions)
    for attribute in ("time", "bytes", "flops"):
        assert sum(getattr(g, attribute) for g in groups) == pytest.approx(sum(getattr(r, attribute) for r in regions))
    dots = [g for g in groups if g.name == "dot"]
    assert sum(g.calls for g in dots) == sum(r.name == "dot" for r in regions) == 8


def test_forward_and_backward(target):
    model, x = Net(), torch.randn(8, 32)
    compiled = thunder.compile(model, fullgraph=True)
    with thunder.profile(compiled, steps=2) as p:
        for _ in range(5):
            compiled(x).sum().backward()
    assert p.steps == 2 and {r.plan for r in p.regions} == {"forward", "backward"}
    assert all(len(r.times) == 2 for r in p.regions)
    assert "forward: 2 calls of" in p.table() and "backward: 2 calls of" in p.table()


# ---- what it does not change ----

def test_the_same_bits(target):
    first, data = Net(), [(torch.randn(8, 32), torch.randn(8, 32)) for _ in range(4)]
    second = copy.deepcopy(first)
    plain, watched = trainer(first), trainer(second)
    want = [plain(x, y) for x, y in data]
    with thunder.profile(watched) as p:
        got = [watched(x, y) for x, y in data]
    assert p.steps in (3, 4) and all(torch.equal(a, b) for a, b in zip(got, want)) and torch.equal(plain.grad_norm, watched.grad_norm)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))


def test_the_same_error(target):
    table = nn.Embedding(10, 4)
    compiled = thunder.compile(lambda i: table(i) * 2, fullgraph=True)
    good, bad = torch.tensor([1, 2]), torch.tensor([3, 11])

    def message():
        with pytest.raises(IndexError) as caught:
            compiled(bad)
        return str(caught.value)
    compiled(good)
    want = message()
    with thunder.profile(compiled) as p:
        compiled(good)
        assert message() == want and "test_profile.py" in want
        compiled(good)
    assert p.steps == 2
    assert message() == want


def test_another_function_with_an_equal_graph_is_not_recorded():
    def foo(x):
        return x * 2 + 1
    one, other, x = thunder.compile(foo), thunder.compile(lambda x: x * 2 + 1), torch.randn(5)
    one(x), other(x)
    with thunder.profile(one) as p:
        one(x)
        other(x), other(x)
    assert p.steps == 1
    one(x)
    assert p.steps == 1  # and it is over after the context


# ---- arguments ----

def test_arguments():
    foo, x = thunder.compile(lambda x: x + 1.625), torch.randn(7)  # no other test compiles it
    with pytest.raises(TypeError, match="was not made by thunder.compile or thunder.train_step"):
        thunder.profile(lambda x: x)
    for steps, error in ((0, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="steps="):
            thunder.profile(foo, steps=steps)
    with thunder.profile(foo) as p:
        with pytest.raises(RuntimeError, match="call the function within the `with`"):
            p.table()
        foo(x)
        with pytest.raises(RuntimeError, match="its only call was the first one"):
            p.regions
        with pytest.raises(RuntimeError, match="being profiled already"):
            thunder.profile(foo).__enter__()
        foo(x)
    with pytest.raises(ValueError, match="sort_by='name': want one of time, "):
        p.table(sort_by="name")
    assert len(p.regions) == 1
    with thunder.profile(foo) as p:  # of a function that has run, the first call counts
        foo(x)
    assert p.steps == 1


# ---- what is printed and written ----

def test_the_table(target):
    step = trainer(Net())
    p = profiled(step, torch.randn(8, 32), torch.randn(8, 32))
    rows = p.table().split("\n")
    assert rows[0].split()[:5] == ["region", "operator", "calls", "time", "%"] and rows[0].split()[-1] == "source"
    assert len(rows) == 2 + len(p.key_averages()) + 2
    assert len(p.table(grouped=False).split("\n")) == 2 + len(p.regions) + 2
    times = [r.time for r in sorted(p.key_averages(), key=lambda r: -r.time)]
    assert [row.split()[0] for row in rows[2:-2]] == [r.name for r in sorted(p.key_averages(), key=lambda r: -r.time)] and times[0] > 0
    in_order = p.table("order", grouped=False).split("\n")
    assert [row.split()[0] for row in in_order[2:-2]] == [r.name for r in p.regions]
    assert "test_profile.py:" in p.table() and "F.gelu(layer(x))" in p.table() and os.sep + "test_profile.py" not in p.table()
    assert f"step: 3 calls of" in rows[-2] and f"{len(p.regions)} regions" in rows[-2] and rows[-1] == "roofline: a CPU of 10 GB/s and 100 GFLOP/s"
    short = p.table(row_limit=2).split("\n")
    assert len(short) == 2 + 2 + 1 + 2 and short[4] == f"... {len(p.key_averages()) - 2} more"


@pytest.mark.parametrize("value, text", [(0, "0 "), (1234567, "1.23 M"), (999.96, "1.00 k"), (12.34e9, "12.3 G"), (123.4e-6, "123 u"), (1e-9, "1.00 n"), (5e12, "5.00 T")])
def test_numbers(value, text):
    assert profiler._si(value) == text


def test_the_trace(target, tmp_path):
    model = Net()
    step = trainer(model)
    p = profiled(step, torch.randn(8, 32), torch.randn(8, 32), steps=2)
    p.export_chrome_trace(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert {e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"} == {"thunder, rank 0", "host", "device"}
    calls = [e for e in events if e["cat"] == "call"]
    assert len(calls) == 2 and len(events) == 2 * (1 + len(p.regions)) and {e["tid"] for e in events} == {0}  # nothing of a device here
    assert all(e["dur"] > 0 and e["ts"] >= 0 and isinstance(e["pid"], int) for e in events) and min(e["ts"] for e in events) == 0
    for e in events:
        if e["cat"] != "call":
            call = calls[e["args"]["call"]]
            assert call["ts"] <= e["ts"] + 1e-3 and e["ts"] + e["dur"] <= call["ts"] + call["dur"] + 1e-3  # us: floats of ns
            assert e["args"].keys() == {"plan", "call", "operator", "source", "bytes", "flops"}
    dot = next(e for e in events if e["name"] == "dot")
    assert dot["args"]["flops"] == 2 * 8 * 32 * 32 and dot["args"]["source"] == line_of(Net, "F.gelu(layer(x))")
    assert dot["dur"] == pytest.approx(next(r for r in p.regions if r.name == "dot").times[0] * 1e6)


def test_rooflines():
    h200 = profiler.cuda_roofline("NVIDIA H200", 9, 0, 132, 3201000, 6144)
    assert h200.bandwidth == pytest.approx(4.917e12, rel=1e-3) and h200.flops["bf16"] == pytest.approx(989.4e12) and h200.flops["f32"] == pytest.approx(66.9e12)
    assert h200.name.startswith("NVIDIA H200: 4.92 TB/s") and "989 TFLOP/s bf16" in h200.name
    assert h200.share(1e-3, int(2.4585e9), 0, "") == pytest.approx(0.5, rel=1e-3)          # by its bytes
    assert h200.share(1e-3, 1000, int(98.94e9), "bf16") == pytest.approx(0.1)              # by its flops
    assert h200.share(1e-3, 0, 0, "") is None and h200.share(0.0, 5, 0, "") is None
    half = profiler.cuda_roofline("a part of one", 9, 0, 66, 3201000, 6144)
    assert half.flops["bf16"] == pytest.approx(989.4e12 / 2)
    unknown = profiler.cuda_roofline("a GPU to come", 99, 0, 200, 0, 0)
    assert unknown.bandwidth is None and unknown.flops == {} and unknown.share(1.0, 5, 0, "") is None and unknown.share(1.0, 0, 5, "bf16") is None
    assert "no data sheet of sm_990 here" in unknown.name


@pytest.mark.parametrize("kind, bandwidth, roofline", [("kernel", 1e9, 0.5), ("collective", None, None), ("copies in", 1e9, None), ("copies out", 1e9, 0.5)])
def test_rates_of_what_does_not_go_at_the_memorys(kind, bandwidth, roofline):
    row = (10, 20, 1000, 2000, 1000, 0, "")  # on a device: 1000 bytes in 1000 ns
    r = profiler.Region("step", 0, (kind, "name", None, None), [row, row], lambda: profiler.Roofline("2 GB/s", 2e9, {}))
    assert r.time == pytest.approx(1e-6) and r.host_time == pytest.approx(1e-8)
    assert r.bandwidth == pytest.approx(bandwidth) and r.roofline == pytest.approx(roofline)


def test_the_cpu_is_measured(monkeypatch):
    monkeypatch.undo()
    roofline = profiler.host_roofline(torch.get_num_threads())
    assert 1e8 < roofline.bandwidth < 1e13 and 1e8 < roofline.flops["f32"] < 1e14 and "measured" in roofline.name
    assert roofline is profiler.host_roofline(torch.get_num_threads())


# ---- NVTX ----

PROGRAM = """
import torch, thunder
foo = thunder.compile(lambda a, b: torch.relu(a @ b))
a = torch.randn(4, 4)
foo(a, a)
with thunder.profile(foo):
    foo(a, a)
foo(a, a)
"""


@pytest.mark.parametrize("variable, ranges", [("", 1), ("1", 3)])
def test_nvtx(variable, ranges, tmp_path):
    if not os.path.exists(FAKE_NVTX):
        pytest.skip("the C tests are not built")
    (tmp_path / "program.py").write_text(PROGRAM)
    env = dict(os.environ, THUNDER_NVTX=variable, NVTX_INJECTION64_PATH=os.path.abspath(FAKE_NVTX), FAKE_NVTX_LOG=str(tmp_path / "log"))
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "NVTX" not in done.stderr, done.stderr
    place = f"{tmp_path / 'program.py'}:3: foo = thunder.compile(lambda a, b: torch.relu(a @ b))"
    call = ["+forward", f"+dot | {place}", "-", f"+th_kernel_0 | {place}", "-", "-"]
    assert (tmp_path / "log").read_text().splitlines() == call * ranges


def test_a_tool_that_is_not_there_is_said_once(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    env = dict(os.environ, THUNDER_NVTX="1", NVTX_INJECTION64_PATH=str(tmp_path / "nothing.so"))
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr.count("no NVTX ranges: the library that NVTX_INJECTION64_PATH names") == 1, done.stderr
