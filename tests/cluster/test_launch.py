"""thunderrun and thunder-step, live: environment, output, failures, orphans, two ranks that train."""
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

pytestmark = pytest.mark.quick
HERE = os.path.dirname(os.path.abspath(__file__))
RUN = [os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderrun")]


def run(*args, timeout=90, env=None, **options):
    env = dict(os.environ, PYTHON_EXEC=sys.executable, **(env or {}))
    return subprocess.run([*RUN, *map(str, args)], env=env, capture_output=True, text=True, timeout=timeout, **options)


def of_job(tag):
    """Processes, zombies aside, whose environment carries THUNDER_TEST=tag."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                mine = f"THUNDER_TEST={tag}".encode() in f.read().split(b"\0")
            with open(f"/proc/{pid}/stat") as f:
                mine = mine and f.read().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            continue
        if mine:
            found.append(int(pid))
    return found


def script(tmp_path, text):
    path = tmp_path / "script.py"
    path.write_text(text)
    return path


def test_environment_and_output(tmp_path):
    done = run("-n", 2, script(tmp_path, "import os\nprint(*(os.environ[k] for k in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE')), os.getcwd())"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"0 0 2 2 {tmp_path}", f"1 1 2 2 {tmp_path}"]


def test_one_rank_inherits_stdin(tmp_path):
    done = run(script(tmp_path, "print(input() + '!')"), input="hello\n")
    assert done.stdout == "hello!\n"


def test_a_failing_rank_ends_the_others(tmp_path):
    started = time.time()
    done = run("-n", 2, script(tmp_path, "import os, sys, time\nif os.environ['RANK'] == '1':\n  print('no such thing')\n  sys.exit(7)\ntime.sleep(60)"))
    assert done.returncode == 7 and time.time() - started < 20
    assert "rank 1 failed with exit code 7" in done.stderr and "no such thing" in done.stderr


def test_wrong_use():
    assert run("-n", "x", "a.py").returncode == 2
    assert "cannot read" in run("nosuch.py").stderr
    assert run("-n", 2, "./nosuch").returncode == 127


SAYS = "import os, sys\nprint(os.environ['RANK'], os.environ['WORLD_SIZE'], *sys.argv[1:])"


@pytest.mark.parametrize("line", [
    "--nproc-per-node 2", "--nproc_per_node=2", "--standalone --nproc-per-node=2", "--nnodes=1 --nproc_per_node 2", "--nnodes 1:1 -n 2 --node_rank=0",
    "--nnodes=1 --nproc-per-node=2 --rdzv-backend=c10d --rdzv_endpoint=localhost:0 --rdzv-id 7 --rdzv_conf a=1 --max_restarts=0 --role default",
    "--nproc-per-node=2 --tee 3 -r 0 --monitor-interval 1 --start-method spawn --local_addr a --event-log-handler null",
    "--nproc-p=2 --log_dir {tmp}/own_logs", "--no_python --nproc_per_node 2"])
def test_torchruns_command_lines(tmp_path, line):
    path = script(tmp_path, SAYS)
    start = [sys.executable, path] if "no_python" in line else [path]
    done = run(*line.format(tmp=tmp_path).split(), *start, "--a_b", "c_d")  # the program's own options stay as they are
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["0 2 --a_b c_d", "1 2 --a_b c_d"]
    assert ("own_logs" in line) == (tmp_path / "own_logs" / "rank1.log").exists()


def test_a_module(tmp_path):
    script(tmp_path, SAYS)
    assert run("--standalone", "-m", "script", "--x", cwd=tmp_path).stdout == "0 1 --x\n"


def test_defaults_from_pet_variables(tmp_path):
    path = script(tmp_path, SAYS)
    assert sorted(run(path, env={"PET_NPROC_PER_NODE": "2", "PET_STANDALONE": "1", "PET_RDZV_BACKEND": "c10d"}).stdout.splitlines()) == ["0 2", "1 2"]
    assert run("-n", 1, path, env={"PET_NPROC_PER_NODE": "2", "PET_NO_PYTHON": "0"}).stdout == "0 1\n"  # the command line wins
    assert run("--max-restarts", 0, path, env={"PET_MAX_RESTARTS": "3"}).stdout == "0 1\n"
    done = run(path, env={"PET_NNODES": "2"})
    assert done.returncode == 2 and "PET_NNODES 2: this version runs on one node" in done.stderr


@pytest.mark.parametrize("line, said", [
    ("--nnodes=2", "--nnodes 2: this version runs on one node"), ("--node_rank 1", "--node-rank 1: this version runs on one node; leave it out or give 0"),
    ("--max-restarts=3", "--max-restarts 3: this version does not start ranks again; leave it out or give 0"), ("-r 3", "--redirects 3"),
    ("--virtual-local-rank", "--virtual-local-rank: "), ("--signals_to_handle=TERM", "--signals-to-handle TERM"), ("--numa-binding=node", "--numa-binding node"),
    ("--nproc-per-node gpu", "-n gpu: want a number"), ("--module --no-python", "want one of them"), ("--nosuch", "unrecognized option"), ("", "usage")])
def test_what_is_not_there_is_refused_by_name(line, said):
    done = run(*line.split(), *(["x.py"] if line else []))
    assert done.returncode == 2 and said in done.stderr and done.stdout == ""


def files_of_job(pid):
    """Of thunderrun's process `pid`, whose job is TIME-PID."""
    return [f for place in ("/tmp", "/dev/shm") for f in os.listdir(place) if f.startswith(("thunder-pmix-", "thunder-progress-")) and f"-{pid}-" in f]


@pytest.mark.parametrize("victim", ["thunderrun", "thunder-step"])
def test_no_orphans_after_kill(tmp_path, victim):
    """Nor files: the PMIx server's and the progress pages."""
    tag = f"{victim}-{os.getpid()}"
    path = script(tmp_path, "import os, signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                            "subprocess.Popen(['setsid', 'sleep', '100'])\nopen(f\"ready{os.environ['RANK']}\", 'w').close()\ntime.sleep(100)")
    p = subprocess.Popen([*RUN, "-n", "2", str(path)], cwd=tmp_path, env=dict(os.environ, PYTHON_EXEC=sys.executable, THUNDER_TEST=tag))
    deadline = time.time() + 30
    while not ((tmp_path / "ready0").exists() and (tmp_path / "ready1").exists()):
        assert time.time() < deadline
        time.sleep(0.05)
    assert len(files_of_job(p.pid)) == 2
    if victim == "thunderrun":
        os.kill(p.pid, signal.SIGKILL)
    else:
        step = [pid for pid in of_job(tag) if open(f"/proc/{pid}/comm").read().strip() == "thunder-step"]
        os.kill(step[0], signal.SIGKILL)
    p.wait()
    time.sleep(2)
    assert of_job(tag) == []
    assert files_of_job(p.pid) == []


def test_what_a_kill_of_both_left_goes_with_the_next_job(tmp_path):
    stale, held = (f"/tmp/thunder-pmix-test{os.getpid()}-{name}" for name in ("stale", "held"))
    for folder in (stale, held):
        os.makedirs(f"{folder}/inner", mode=0o700)
        os.chmod(folder, 0o700)
        open(f"{folder}/inner/file", "w").close()
        os.utime(folder, (1, 1))
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        assert run("-n", 1, script(tmp_path, "pass")).returncode == 0
        assert not os.path.exists(stale) and os.path.exists(f"{held}/inner/file")
    finally:
        os.close(lock)
        shutil.rmtree(held)


def test_mpi_works_in_the_ranks(tmp_path):
    done = run("-n", 2, script(tmp_path, "import torch, os\nfrom thunder import _C\nt = torch.full((3,), float(os.environ['RANK']) + 1)\n_C.broadcast(t)\nprint(t.tolist())"))
    assert done.stdout.splitlines() == ["[1.0, 1.0, 1.0]"] * 2, done.stderr


def test_a_profile_of_two_ranks(tmp_path):
    """The gradients' sum is a region that begins it and one that waits for it; each rank has a profile of its own, named after it."""
    done = run("-n", 2, script(tmp_path, """
import json, os, torch, thunder
model = torch.nn.Linear(32, 16)
step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.nn.functional.mse_loss)
x, y, rank = torch.randn(4, 32), torch.randn(4, 16), os.environ["RANK"]
with thunder.profile(step) as p:
    for _ in range(3):
        step(x, y)
start, = [r for r in p.regions if r.kind == "collective"]
wait, = [r for r in p.regions if r.kind == "wait"]
p.export_chrome_trace(rank + ".json")
with open(rank + ".json") as f:
    named = json.load(f)["traceEvents"][0]["args"]["name"]
with open(rank + ".txt", "w") as f:
    print(named, start.name, start.bytes, start.index < wait.index, wait.name, wait.bytes, wait.time > 0, start.bandwidth, start.roofline, sep="; ", file=f)
"""), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    moved = 2 * 4 * (32 * 16 + 16)  # the sum is read and written in place
    for rank in range(2):
        assert (tmp_path / f"{rank}.txt").read_text() == f"thunder, rank {rank}; all_reduce:avg:dp; {moved}; True; wait all_reduce:avg:dp; 0; True; None; None\n"


def test_two_ranks_train_as_one(tmp_path):
    done = run("-n", 2, os.path.join(HERE, "two_ranks.py"), tmp_path)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 11)).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    generator = torch.Generator().manual_seed(7)
    for _ in range(20):
        x, y = torch.randint(0, 11, (4, 6), generator=generator), torch.randint(0, 11, (4, 6), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"rank{rank}.pt").items():
            torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-9, atol=1e-9)
