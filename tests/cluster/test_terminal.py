"""thunderrun as torchrun and a terminal use it: torch.distributed, signals, a paused terminal, PID 1, data loaders."""
import os
import pty
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn as nn

from test_launch import RUN, of_job, run, script

ENV = dict(os.environ, PYTHON_EXEC=sys.executable)


def wait(condition, seconds=30):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, f"still not after {seconds} s"
        time.sleep(0.05)


def test_torch_distributed_and_thunder_together(tmp_path):
    done = run("-n", 2, script(tmp_path, """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
t = torch.full((2,), float(dist.get_rank() + 1))
dist.all_reduce(t)
import thunder
print(thunder.compile(lambda a: a * 2)(t).tolist(), dist.get_world_size())
dist.destroy_process_group()
"""))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "ProcessGroupGloo" not in line]  # it warns of a host without a name
    assert lines == ["[6.0, 6.0] 2"] * 2


@pytest.mark.quick
@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_are_forwarded(tmp_path, sent, code):
    path = script(tmp_path, f"import os, signal, sys, time\nsignal.signal({int(sent)}, lambda *_: (open('got' + os.environ['RANK'], 'w').close(), sys.exit(0)))\n"
                            "open('ready' + os.environ['RANK'], 'w').close()\ntime.sleep(60)")
    p = subprocess.Popen([*RUN, "-n", "2", str(path)], cwd=tmp_path, env=ENV)
    wait(lambda: all((tmp_path / f"ready{r}").exists() for r in range(2)))
    p.send_signal(sent)
    assert p.wait(20) == code
    assert all((tmp_path / f"got{r}").exists() for r in range(2))


@pytest.mark.quick
def test_a_paused_terminal_blocks_no_rank(tmp_path):
    """Nobody reads the terminal: the ranks still print 8 MB, end, and their files have it all."""
    master, slave = pty.openpty()
    path = script(tmp_path, "import os\nfor i in range(40000):\n  print('x' * 100, i)\nopen('done' + os.environ['RANK'], 'w').close()")
    p = subprocess.Popen([*RUN, "-n", "2", "--log-dir", str(tmp_path / "logs"), str(path)], cwd=tmp_path, env=ENV, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    wait(lambda: all((tmp_path / f"done{r}").exists() for r in range(2)))
    assert p.wait(30) == 0
    for rank in range(2):
        lines = (tmp_path / "logs" / f"rank{rank}.log").read_text().splitlines()
        assert len(lines) == 40000 and lines[-1].endswith(" 39999")
    seen = os.read(master, 4096)
    assert seen.startswith((b"[0] ", b"[1] "))
    os.close(master)


@pytest.mark.quick
def test_a_failing_rank_ends_the_job_on_a_paused_terminal(tmp_path):
    tag = f"paused-{os.getpid()}"
    master, slave = pty.openpty()
    path = script(tmp_path, "import os, sys, time\nprint('\\n'.join(['y' * 100] * 5000))\ntime.sleep(1)\nif os.environ['RANK'] == '1': sys.exit(5)\ntime.sleep(60)")
    p = subprocess.Popen([*RUN, "-n", "2", str(path)], cwd=tmp_path, env={**ENV, "THUNDER_TEST": tag}, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    ranks = lambda: [pid for pid in of_job(tag) if "python" in open(f"/proc/{pid}/comm").read()]  # noqa: E731
    wait(ranks)
    wait(lambda: not ranks(), 20)
    text = b""
    while True:  # someone reads again: the message is there
        try:
            text += os.read(master, 65536)
        except OSError:  # the last one who had the terminal open is gone
            break
    assert p.wait(20) == 5
    assert b"rank 1 failed with exit code 5" in text
    os.close(master)


@pytest.mark.quick
def test_a_pipe_that_is_read_gets_every_line(tmp_path):
    done = run("-n", 2, script(tmp_path, "for i in range(20000): print('line', i)"))
    lines = done.stdout.splitlines()
    assert len(lines) == 40000 and sorted(lines) == sorted(f"line {i}" for i in range(20000) for _ in range(2))


def namespaces():
    return shutil.which("unshare") and subprocess.run(["unshare", "-r", "-p", "-f", "--mount-proc", "true"], capture_output=True).returncode == 0


@pytest.mark.quick
def test_as_pid_1(tmp_path):
    """In a PID namespace of its own: orphans are reaped, TERM is forwarded, the job's code is the container's."""
    if not namespaces():
        pytest.skip("this machine's kernel gives no PID namespaces")
    path = script(tmp_path, """
import os, signal, subprocess, sys, time
subprocess.Popen(['sh', '-c', 'setsid sleep 0.2 & exit 0']).wait()
time.sleep(0.6)
zombies = [p for p in os.listdir('/proc') if p.isdigit() and open(f'/proc/{p}/stat').read().rsplit(')', 1)[1].split()[0] == 'Z']
open('zombies' + os.environ['RANK'], 'w').write(' '.join(zombies))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
os.rename('zombies' + os.environ['RANK'], 'ready' + os.environ['RANK'])
time.sleep(60)
""")
    inside = f"import os, sys; assert os.getpid() == 1; os.execvp({RUN[0]!r}, ['thunderrun', '-n', '2', {str(path)!r}])"
    p = subprocess.Popen(["unshare", "-r", "-p", "-f", "--mount-proc", sys.executable, "-c", inside], cwd=tmp_path, env=ENV, stderr=subprocess.PIPE, text=True)
    wait(lambda: all((tmp_path / f"ready{r}").exists() for r in range(2)))
    assert [(tmp_path / f"ready{r}").read_text() for r in range(2)] == ["", ""]
    child = int(open(f"/proc/{p.pid}/task/{p.pid}/children").read().split()[0])
    os.kill(child, signal.SIGTERM)
    assert p.wait(20) == 143, p.stderr.read()


def test_no_orphans_of_a_data_loader(tmp_path):
    tag = f"loader-{os.getpid()}"
    path = script(tmp_path, """
import os, time, torch
from torch.utils.data import DataLoader, Dataset
class Slow(Dataset):
    def __len__(self): return 1000
    def __getitem__(self, i):
        time.sleep(0.05)
        return torch.ones(2)
for i, _ in enumerate(DataLoader(Slow(), num_workers=2, multiprocessing_context="fork")):
    if i == 2: open('ready' + os.environ['RANK'], 'w').close()
""")
    p = subprocess.Popen([*RUN, "-n", "2", str(path)], cwd=tmp_path, env={**ENV, "THUNDER_TEST": tag}, stderr=subprocess.DEVNULL)
    wait(lambda: all((tmp_path / f"ready{r}").exists() for r in range(2)), 60)
    assert len(of_job(tag)) >= 8, "thunderrun, step, two ranks, four workers"
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    time.sleep(2)
    assert of_job(tag) == []


@pytest.mark.quick
def test_no_mpi_library(tmp_path):
    done = subprocess.run([*RUN, "-n", "2", str(script(tmp_path, """
import torch, thunder
m = torch.nn.Linear(4, 4)
s = thunder.train_step(m, torch.optim.SGD(m.parameters(), lr=.1), torch.nn.functional.mse_loss, parallel="ddp")
s(torch.ones(2, 4), torch.zeros(2, 4))
"""))], env={**ENV, "THUNDER_MPI_LIBRARY": "/nonexistent/libthunder_mpi.so"}, capture_output=True, text=True, timeout=90)
    assert done.returncode == 1
    assert "THUNDER_MPI_LIBRARY" in done.stderr + done.stdout and "/nonexistent" in done.stderr + done.stdout


@pytest.mark.quick
def test_environment_limits_and_directory_are_the_callers(tmp_path):
    path = script(tmp_path, "import os, resource\nprint(os.environ['MINE'], resource.getrlimit(resource.RLIMIT_NOFILE)[0], os.getcwd(), oct(os.umask(0)))")
    done = subprocess.run(["sh", "-c", f"ulimit -n 321; umask 027; MINE=x exec {RUN[0]} -n 2 {path}"], cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.splitlines()) == [f"x 321 {tmp_path} 0o27"] * 2, done.stderr


MANY = """import sys, torch, torch.nn as nn, thunder, os
torch.manual_seed(0)
model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(300)]).double()
step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), lambda out, y: (out - y).square().mean(), parallel="ddp")
rank = int(os.environ["RANK"])
for i in range(2):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
    step(x[2 * rank:2 * rank + 2], x[2 * rank:2 * rank + 2] + 1)
torch.save(model.state_dict(), f"{sys.argv[1]}/rank{rank}.pt")
"""


def test_more_gradients_than_a_collective_takes(tmp_path):
    (tmp_path / "many.py").write_text(MANY)
    done = run("-n", 2, tmp_path / "many.py", tmp_path)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(300)]).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i in range(2):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        optimizer.zero_grad()
        (model(x) - (x + 1)).square().mean().backward()
        optimizer.step()
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"rank{rank}.pt").items():
            torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-9, atol=1e-9)
