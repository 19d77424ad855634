"""The progress pages, live: ranks that differ, leave, hang or are interrupted end with one error that names them; nothing is left
behind; thunderctl ls sees the steps."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from test_launch import RUN, of_job, script

CTL = os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderctl")
SHM = "/dev/shm"
PRELUDE = """
import os, signal, subprocess, sys, time
import torch
import thunder
from thunder import _C
rank = int(os.environ["RANK"])
def say(name, text=""):
    with open(name + ".new", "w") as f:
        f.write(str(text))
    os.rename(name + ".new", name)
def until(name):
    while not os.path.exists(name):
        time.sleep(0.02)
def training(**options):
    torch.manual_seed(0)
    m = torch.nn.Linear(8, 4)
    s = thunder.train_step(m, torch.optim.SGD(m.parameters(), lr=0.1), lambda out, y: (out * out).sum(), **options)
    return m, lambda n=2: s(torch.ones(n, 8), torch.zeros(n))
"""


class Live:
    """A job of two ranks (or `ranks`) that runs `text` in `folder`."""

    def __init__(self, folder, text, *args, ranks=2, start=None, **env):
        self.folder, self.tag = folder, f"progress-{os.getpid()}-{time.time_ns()}"
        path = script(folder, PRELUDE + text)
        if start:
            (folder / "fake.py").write_text(start)
        self.process = subprocess.Popen([*RUN, "-n", str(ranks), "--log-dir", str(folder / "logs"), *(args or (str(path),))], cwd=folder, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, env=dict(os.environ, PYTHON_EXEC=sys.executable, THUNDER_TEST=self.tag, **env))

    def has(self, name):
        return (self.folder / name).exists()

    def read(self, name):
        return (self.folder / name).read_text()

    def wait(self, condition, seconds=90):
        end = time.time() + seconds
        while not condition():
            assert self.process.poll() is None or condition(), self.process.stderr.read()
            assert time.time() < end, f"still not after {seconds} s"
            time.sleep(0.02)

    def end(self, seconds=90):
        """(exit code, stderr); no process and no file is left."""
        _, errors = self.process.communicate(timeout=seconds)
        self.clean()
        return self.process.returncode, errors

    def clean(self):
        assert of_job(self.tag) == []
        assert self.folders() == self.folders("/tmp") == []

    def log(self, rank):
        return self.read(f"logs/rank{rank}.log")

    def step(self):
        pid, = (pid for pid in of_job(self.tag) if open(f"/proc/{pid}/comm").read().strip() == "thunder-step")
        return pid

    def folders(self, place=SHM):
        return [name for name in os.listdir(place) if re.match(rf"thunder-progress-\w+-{self.process.pid}-", name)]

    def ls(self):
        """This job's part of thunderctl ls."""
        out = subprocess.run([CTL, "ls"], capture_output=True, text=True, timeout=30).stdout
        mine, found = [], False
        for line in out.splitlines():
            found = str(self.folder) in line if not line.startswith(" ") else found
            mine += [line] * found
        return "\n".join(mine)


@pytest.fixture
def live(tmp_path):
    jobs = []

    def start(*args, **options):
        jobs.append(Live(tmp_path, *args, **options))
        return jobs[-1]
    yield start
    for job in jobs:
        if job.process.poll() is None:
            job.process.kill()


# ---- ranks that differ

@pytest.mark.quick
def test_unlike_broadcasts_are_named(live):
    """A broadcast of another size: MPI itself says «truncated» on one rank, and nothing on the other."""
    job = live("""
_C.broadcast(torch.zeros(3))
_C.broadcast(torch.zeros(5))
began = time.time()
try:
    for i in range(1000):
        _C.broadcast(torch.zeros(7 + (rank == 0 and i == 2)))
        time.sleep(0.01)
except thunder.ThunderError as error:
    say(f"error{rank}", f"{time.time() - began:.3f} {error.code} {error}")
    sys.exit(3)
""")
    code, errors = job.end()
    text = "collective 4 differs between ranks: rank 0 broadcast of 32 u8, rank 1 broadcast of 28 u8; all ranks must run the same program"
    assert code == 3 and f"thunderrun: {text}" in errors, errors
    for rank in range(2):
        seconds, name, told = job.read(f"error{rank}").split(" ", 2)
        assert float(seconds) < 3 and name == "ABORTED" and text in told


def test_unlike_models(live):
    """The same parameters, but one rank does not train the bias: their all-reduces differ. MPI says «truncated» on one
    rank (at best), the other may be given garbage or wait for ever."""
    job = live("""
m, step = training(parallel="ddp")
if rank == 1:
    m.bias.requires_grad_(False)
for _ in range(3):
    step()
""")
    code, errors = job.end()
    text = r"collective 2 differs between ranks: rank 0 all_reduce avg of 36 f32 \(op \d+\), rank 1 all_reduce avg of 32 f32 \(op \d+\); all ranks must"
    assert code == 1 and re.search("thunderrun: " + text, errors), errors
    for rank in range(2):
        assert re.search("ThunderError: ABORTED: .*" + text, job.log(rank)), job.log(rank)


def test_unlike_collectives_that_nobody_waits_for(live):
    """The last broadcast differs and all ranks end well: the job does not."""
    job = live("_C.broadcast(torch.zeros(4))\n_C.broadcast(torch.zeros(4 + rank))\nos._exit(0)")
    code, errors = job.end()
    assert code == 1 and "collective 1 differs between ranks: rank 0 broadcast of 16 u8, rank 1 broadcast of 20 u8" in errors


FAKE = """
import mmap, os, struct, sys, time
rank = int(os.environ["RANK"])
fd = os.open(os.environ["THUNDER_PROGRESS"], os.O_RDWR)
page = mmap.mmap(fd, 0)
assert struct.unpack_from("=6I", page) == (0x54485047, 2, rank, rank, int(os.environ["WORLD_SIZE"]), 0)
RING, ABORT = 208, 208 + 1024 * 32
def post(n, differs_at, count):
    '''The last of n collectives that are all alike up to differs_at; all of them seen at once.'''
    for i in range(max(0, n - 1024), n):
        other = i >= differs_at
        struct.pack_into("=QQQ4BI", page, RING + i % 1024 * 32, i + 1, i * 10 + other * count, 1000 + other * count, 0, 11, 0, 0, 12)
    struct.pack_into("=iI", page, 152, os.getpid(), 2)
    open(f"written{rank}", "w").close()
    while len([name for name in os.listdir() if name.startswith("written")]) < 12:
        time.sleep(0.005)
    struct.pack_into("=QQ", page, 176, n, n - 1)
def wait():
    while not struct.unpack_from("=I", page, ABORT)[0]:
        time.sleep(0.01)
    open(f"told{rank}", "wb").write(page[ABORT + 4:ABORT + 512].split(b"\\0")[0])
"""


@pytest.mark.quick
@pytest.mark.parametrize("program, told", [
    ("post(2000, 1500 if rank in (3, 7) else 9999, 5)",
     "collective 1500 differs between ranks: ranks 0-2, 4-6, 8-11 all_reduce sum of 1000 f32 (op 12), ranks 3, 7 all_reduce sum of 1005 f32 (op 12); all ranks must"),
    ("post(2000, 10 if rank == 11 else 9999, 5)",  # what is remembered differs already
     "collective 976, or an earlier one, differs between ranks: ranks 0-10 all_reduce sum of 1000 f32 (op 12), rank 11 all_reduce sum of 1005 f32 (op 12); all ranks must"),
    ("post(20 + rank, 7 if rank % 2 else 9999, 5)",
     "collective 7 differs between ranks: ranks 0, 2, 4, 6 and 2 more all_reduce sum of 1000 f32 (op 12), ranks 1, 3, 5, 7 and 2 more all_reduce sum of 1005 f32 (op 12); all ranks must"),
    ("post(20, 7, rank)",  # twelve kinds: three are named
     "collective 7 differs between ranks: rank 0 all_reduce sum of 1000 f32 (op 12), rank 1 all_reduce sum of 1001 f32 (op 12), rank 2 all_reduce sum of 1002 f32 (op 12); all ranks must"),
    ("post(20, 9999, 5)\nif rank == 5: time.sleep(0.5), sys.exit(0)",  # it had not done what it posted
     "rank 5 has ended (exit code 0) after 19 collectives and 0 training steps, rank 0 waits for it in collective 19, all_reduce sum of 1000 f32 (op 12); all ranks must"),
])
def test_many_ranks_are_compared(live, program, told):
    """Ranks without Thunder, that write on their pages."""
    job = live("", "--no-python", sys.executable, "fake.py", ranks=12, start=FAKE + program + "\nwait()")
    code, errors = job.end(30)
    assert code == 1 and f"thunderrun: {told}" in errors, errors
    ranks = [rank for rank in range(12) if job.has(f"told{rank}")]
    assert len(ranks) >= 11 and all(job.read(f"told{rank}").startswith(told) for rank in ranks)


# ---- ranks that leave

def test_one_step_fewer(live):
    job = live("""
m, step = training(parallel="ddp")
for _ in range(3 - rank):
    step()
""")
    code, errors = job.end()
    text = r"collective 4 differs between ranks: rank 0 all_reduce avg of 36 f32 \(op \d+\), rank 1 left after 4 collectives and 2 training steps; all ranks must run the same program"
    assert code == 1 and re.search("thunderrun: " + text, errors), errors
    assert re.search("ThunderError: ABORTED: .*" + text, job.log(0)), job.log(0)
    assert "Error" not in job.log(1)


@pytest.mark.parametrize("opened", [pytest.param(False, marks=pytest.mark.quick), True])
def test_a_rank_that_ends_without_a_word(live, opened):
    """os._exit, before or after the first collective: no handler runs in it, its parent sees it end."""
    job = live(f"""
if {opened}:
    _C.broadcast(torch.zeros(2))
if rank == 0:
    os._exit(0)
_C.broadcast(torch.zeros(2))
""")
    code, errors = job.end()
    text = ("rank 0 has ended (exit code 0) after 1 collective and 0 training steps, rank 1 waits for it in collective 1, broadcast of 8 u8; all ranks must" if opened else
            "rank 0 has ended (exit code 0) after 0 collectives and 0 training steps, rank 1 waits for it with its first collective; all ranks must")
    assert code == 1 and f"thunderrun: {text}" in errors and "ThunderError: ABORTED" in job.log(1) and text in job.log(1), errors


def test_the_rank_that_fails_is_blamed(live):
    """It leaves, so the other one is told to stop and fails too; the first is the cause."""
    job = live("""
_C.broadcast(torch.zeros(2))
if rank == 0:
    raise ValueError("this is the cause")
_C.broadcast(torch.zeros(2))
""")
    code, errors = job.end()
    assert code == 1 and "rank 0 failed with exit code 1" in errors and "this is the cause" in errors and "rank 1 failed" not in errors
    assert "differs between ranks" not in errors


# ---- what is legal

def test_recompile_short_batch_and_bytes(live):
    """One rank compiles anew for its last, shorter batch. What is sent: 2(n-1)/n of the gradients a step, nothing for the loss or the
    norm; the parameters once, by rank 0."""
    job = live("""
m, step = training(parallel="ddp", clip_grad_norm=1.0)
for i in range(6):
    step(1 if rank == 1 and i == 5 else 2)
say(f"stats{rank}", repr(_C.channel_stats()))
""")
    code, errors = job.end()
    assert code == 0 and "thunderrun" not in errors, errors
    first, second = (eval(job.read(f"stats{rank}")) for rank in range(2))
    gradients = 4 * (8 * 4 + 4)
    assert first["fingerprint"] == second["fingerprint"] != 0 and first["index"] == first["completed"] == second["index"] == 8
    assert second["bytes_sent"] == 6 * 2 * (2 - 1) * gradients // 2
    assert first["bytes_sent"] == second["bytes_sent"] + gradients
    assert second["wait_ns"] > 0


# ---- ranks that hang

@pytest.mark.parametrize("opened", [False, True])
def test_a_rank_that_does_not_come_is_named(live, opened):
    job = live(f"""
if {opened}:
    _C.broadcast(torch.zeros(2))
if rank == 0:
    until("told")
    sys.exit(0)
began = time.time()
try:
    _C.broadcast(torch.zeros(2))
except thunder.ThunderError as error:
    say("error", f"{{time.time() - began:.3f}} {{error.code}} {{error}}")
say("told")
""", THUNDER_COLLECTIVE_TIMEOUT="2")
    job.end()
    seconds, name, text = job.read("error").split(" ", 2)
    assert 2 <= float(seconds) < 3.5 and name == "DEADLINE_EXCEEDED"
    who = (r"not done after 2\.\d+ s: rank 0 has not come: 1 collective and 0 training steps done, nothing new for [12]\.\d s; for slow steps set THUNDER_COLLECTIVE_TIMEOUT" if opened else
           r"not done after 2\.\d+ s: rank 0 has not come: it had no collective and no training step yet; for slow")
    assert re.search(who, text), text


# ---- signals

@pytest.mark.parametrize("opened", [False, True])
def test_interrupt_ends_a_wait(live, opened):
    job = live(f"""
if {opened}:
    _C.broadcast(torch.zeros(2))
if rank == 0:
    time.sleep(60)
say("ready", os.getpid())
try:
    _C.broadcast(torch.zeros(2))
except KeyboardInterrupt:
    say("interrupted", time.time())
try:
    _C.broadcast(torch.zeros(2))
except thunder.ThunderError as error:
    say("after", f"{{error.code}} {{error}}")
say("leaves", time.time())
sys.exit(5)
""")
    job.wait(lambda: job.has("ready"))
    time.sleep(1)  # it waits
    sent = time.time()
    os.kill(int(job.read("ready")), signal.SIGINT)
    code, errors = job.end(20)
    assert code == 5 and float(job.read("interrupted")) - sent < 0.3
    assert job.read("after").startswith("FAILED_PRECONDITION ") and "a signal's handler raised an exception" in job.read("after")
    assert time.time() - float(job.read("leaves")) < 5, "MPI_Finalize waits for nobody"


def test_a_handler_runs_during_a_wait_that_goes_on(tmp_path, live):
    job = live("""
_C.broadcast(torch.zeros(2))
signal.signal(signal.SIGUSR1, lambda *_: say("handled", time.time()))
t = torch.full((2,), 7.0 - rank)
if rank == 0:
    until("go")
else:
    say("ready", os.getpid())
_C.broadcast(t)
say(f"got{rank}", t.tolist())
""")
    job.wait(lambda: job.has("ready"))
    folder, = job.folders()
    assert {"rank0", "rank1"} <= set(os.listdir(os.path.join(SHM, folder)))
    assert any("segment" in name for name in os.listdir(os.path.join(SHM, folder))), "Open MPI's files are to go with the folder"
    time.sleep(0.5)
    sent = time.time()
    os.kill(int(job.read("ready")), signal.SIGUSR1)
    job.wait(lambda: job.has("handled"), 10)
    (tmp_path / "go").touch()
    code, errors = job.end()
    assert code == 0 and float(job.read("handled")) - sent < 0.3, errors
    assert job.read("got1") == "[7.0, 7.0]"


# ---- whose page it is

def test_helpers_do_not_disturb_the_page(tmp_path, live):
    """The rank runs under a shell. Before it attaches, a helper of another world trains; afterwards two with its very environment and
    one that it forked: the page counts the rank's steps alone."""
    job = live("""
n = int(sys.argv[1]) if len(sys.argv) > 1 else 0
m, step = training()
if n:
    for _ in range(n):
        step()
    sys.exit(0)
again = [sys.executable, sys.argv[0], "5"]
subprocess.run(again, env=dict(os.environ, WORLD_SIZE="1", RANK="0", OTHER="1"), check=True)
step(), step()
helpers = [subprocess.Popen(again) for _ in range(2)]
assert [p.wait() for p in helpers] == [0, 0]
pid = os.fork()
if not pid:
    step(), step()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
step()
say("ready")
until("go")
""", "--no-python", "bash", "-c", f"true; {sys.executable} script.py; exit $?", ranks=1, OMP_NUM_THREADS="1")
    job.wait(lambda: job.has("ready"))
    job.wait(lambda: "training step 3 on its rank" in job.ls(), 10)
    rank, = re.findall(r"rank 0  pid (\d+)  running  step 3", job.ls())
    assert "python" in os.readlink(f"/proc/{rank}/exe"), "the program's own PID, not the shell's"
    (tmp_path / "go").touch()
    assert job.end()[0] == 0


def test_a_forked_child_has_no_collectives(live):
    job = live("""
_C.broadcast(torch.zeros(2))
pid = os.fork()
if not pid:
    try:
        _C.broadcast(torch.zeros(2))
    except thunder.ThunderError as error:
        say(f"child{rank}", error)
    os._exit(0)
os.waitpid(pid, 0)
_C.broadcast(torch.zeros(2))
""")
    code, errors = job.end()
    assert code == 0, errors
    assert "forked from a rank" in job.read("child0")


# ---- what is left behind

@pytest.mark.quick
@pytest.mark.parametrize("victims", [("thunderrun",), ("thunder-step",), ("thunder-step", "thunderrun")])
def test_no_page_is_left_after_kill(live, victims):
    job = live("", "--no-python", "sleep", "60")
    job.wait(lambda: job.folders() and len(of_job(job.tag)) == 4)
    folder, = job.folders()
    place = os.path.join(SHM, folder)
    assert os.stat(place).st_mode & 0o777 == 0o700 and os.stat(place).st_uid == os.geteuid()
    pages = [os.path.join(place, f) for f in sorted(os.listdir(place)) if f.startswith("rank")]
    assert len(pages) == 2 and all(os.stat(p).st_mode & 0o777 == 0o600 for p in pages)
    pids = {"thunderrun": job.process.pid, "thunder-step": job.step()}
    others = [pid for pid in of_job(job.tag) if pid not in pids.values()]
    if len(victims) == 2:
        os.kill(pids["thunderrun"], signal.SIGSTOP)
    for victim in victims:
        os.kill(pids[victim], signal.SIGKILL)
    job.process.wait(10)
    if len(victims) == 2:  # nobody is there to remove it; the next job does, once the folder is not young
        for pid in others:
            os.kill(pid, signal.SIGKILL)
        assert job.folders() == [folder]
        subprocess.run([*RUN, "--no-python", "true"], check=True, timeout=30)
        assert job.folders() == [folder], "too young"
        os.utime(place, (time.time() - 60, time.time() - 60))
        subprocess.run([*RUN, "--no-python", "true"], check=True, timeout=30)
    end = time.time() + 10
    while (job.folders() or of_job(job.tag)) and time.time() < end:
        time.sleep(0.05)
    job.clean()


@pytest.mark.quick
def test_without_shared_memory(tmp_path):
    """/dev/shm is not there: the pages are in TMPDIR, the folder of Open MPI's files is left to Open MPI."""
    mount = ["unshare", "-r", "-m", "sh", "-c", 'mount -t tmpfs -o size=4k tmpfs /dev/shm && exec "$0" "$@"']
    if subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run([*mount, *RUN, "-n", "2", "--no-python", "sh", "-c", "echo $THUNDER_PROGRESS; ls -l $THUNDER_PROGRESS"], capture_output=True, text=True, timeout=60,
                          cwd=tmp_path, env=dict(os.environ, TMPDIR=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert len(re.findall(f"^{tmp_path}/thunder-progress-.*/rank[01]$", done.stdout, re.M)) == 2, done.stdout + done.stderr
    assert not [name for name in os.listdir(tmp_path) if name.startswith("thunder-progress-")]


# ---- thunderctl ls

def test_ls_shows_the_steps(tmp_path, live):
    job = live("""
if rank == 0:
    thunder.compile(lambda a: a + 1)(torch.ones(2))  # a daemon is there, the pages are nobody's yet
    say("started")
until("train")
m, step = training(parallel="ddp")
for _ in range(3):
    step()
if rank == 1:  # steps of its own
    os.environ["WORLD_SIZE"] = "1"
    m, alone = training()
    alone(), alone()
    os.environ["WORLD_SIZE"] = "2"
say(f"ready{rank}")
until("go")
""")
    job.wait(lambda: job.has("started"))
    job.wait(lambda: "training step unknown: no rank has run a step" in job.ls(), 10)
    assert len(re.findall(r"^  rank [01]  pid \d+  running  step unknown$", job.ls(), re.M)) == 2
    (tmp_path / "train").touch()
    job.wait(lambda: job.has("ready0") and job.has("ready1"))
    job.wait(lambda: "  training step 3 (rank 0) to 5 (rank 1)" in job.ls(), 10)
    text = job.ls()
    assert re.search(r"^  rank 0  pid \d+  running  step 3  collective 5$", text, re.M) and re.search(r"^  rank 1  pid \d+  running  step 5  collective 5$", text, re.M), text
    folder, = job.folders()
    page = os.path.join(SHM, folder, "rank1")
    os.rename(page, page + ".away")
    assert "training step 3 (rank 0); unknown of 1 rank" in job.ls()
    for foreign in (b"", b"x" * 100, b"y" * 200000):  # cut short, or not a page
        with open(page, "wb") as f:
            f.write(foreign)
        assert "training step 3 (rank 0); unknown of 1 rank" in job.ls()
    os.remove(page)
    os.mkfifo(page)
    assert "training step 3 (rank 0); unknown of 1 rank" in job.ls()
    (tmp_path / "go").touch()
    assert job.end()[0] == 0
