"""Processes killed at random: a daemon of its own, clients that compile, a job of two ranks that trains; kill -9 of a daemon, worker,
rank, thunder-step or thunderrun at a random moment. Whatever is killed, what is left says one clear error or goes on, the job leaves
no orphan, and the next client compiles.

    kills.py --seed 7 [--count 10]     prints how often each victim was met, in which state, and what came of it"""
import argparse
import collections
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "daemon"))
from conftest import Place  # noqa: E402

CLIENT = """
import torch, thunder
try:
    c = thunder.compile(lambda a: (a * {factor}).sum() + {factor})
    got, wanted = float(c(torch.ones(4))), 5 * {factor}
    print("ok" if abs(got - wanted) < 1e-4 else f"WRONG {{got}}, wanted {{wanted}}")
except thunder.ThunderError as error:
    print("error", str(error).splitlines()[0])
"""
JOB = """
import torch, thunder, subprocess, sys
model = torch.nn.Sequential(torch.nn.Linear(8, {width}), torch.nn.Tanh(), torch.nn.Linear({width}, 1))
step = thunder.train_step(model, torch.optim.AdamW(model.parameters()), torch.nn.functional.mse_loss, parallel="ddp")
child = subprocess.Popen(["sleep", "300"], start_new_session=True)
for i in range(2000):
    step(torch.randn(4, 8), torch.randn(4, 1))
child.kill()
"""
# By the beginning of the command line: thunderrun's and thunder-step's end with the rank's.
VICTIMS = {"daemon": r"\S*thunderd --serve", "worker": r"\S*thunderc --worker", "rank": r"\S*python\S* \S*job\.py", "step": r"\S*thunder-step ",
           "thunderrun": r"\S*thunderrun "}


def one(seed, seen):
    r = random.Random(seed)
    folder = tempfile.mkdtemp(prefix="thunder-soak-")
    place = Place(folder)
    programs = []
    try:
        factors = [r.randint(1, 10**6) / 64 for _ in range(3)]
        clients = [place.start(place.script(f"client{i}.py", factor=f, text=CLIENT)) for i, f in enumerate(factors)]
        job_file = os.path.join(folder, "job.py")
        with open(job_file, "w", encoding="utf-8") as f:
            f.write(JOB.format(width=r.randint(1, 64)))
        job = subprocess.Popen([os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderrun"), "-n", "2", sys.executable, job_file],
                               env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        programs = [*clients, job]
        victim, pattern = r.choice(list(VICTIMS.items()))
        end = time.time() + r.uniform(0.2, 12)
        target = None
        while time.time() < end or target is None:
            pids = [pid for pid, command in place.processes().items() if re.match(pattern, command)]
            if pids and time.time() >= end:
                target = r.choice(pids)
            elif time.time() > end + 40:
                break
            time.sleep(0.01)
        state = "clients waiting" if any(c.poll() is None for c in clients) else "job alone" if job.poll() is None else "all over"
        if target:
            try:
                os.kill(target, signal.SIGKILL)
            except ProcessLookupError:
                target = None
        killed = time.time()
        said = []
        for c in clients:
            out, err = c.communicate(timeout=120)
            if c.returncode or not re.match(r"ok|error \S", out) or "WRONG" in out:
                raise AssertionError(f"a client ended with {c.returncode}: {out[-500:]}{err[-2000:]}")
            said.append(out.split()[0])
        ends_job = target and victim in ("rank", "step", "thunderrun")
        out, err = job.communicate(timeout=240)
        if ends_job and state != "all over" and job.returncode == 0:
            raise AssertionError(f"the job ended well though its {victim} was killed")
        if not ends_job and job.returncode and not (victim in ("daemon", "worker") and re.search(r"ThunderError|DaemonError|CompileError|thunderd|worker", err)):
            raise AssertionError(f"the job failed with {job.returncode} though only a {victim} was killed: {err[-2000:]}")
        if job.returncode and not err.strip() and victim != "thunderrun":
            raise AssertionError("the job failed without a word")
        time.sleep(max(0.0, killed + 2 - time.time()))
        left = [c for c in place.processes().values() if "thunderd" not in c and "thunderc" not in c]
        if left:
            raise AssertionError(f"left behind 2 s later: {left}")
        code, out, err = place.run(place.script("after.py", factor=r.randint(1, 10**6) / 32, text=CLIENT))
        if code or not out.startswith("ok"):
            raise AssertionError(f"the next client: {out}{err[-2000:]}")
        seen[f"{victim if target else 'nobody'}, {state}: clients {'+'.join(sorted(said))}, job {job.returncode}"] += 1
    finally:
        for p in programs:
            if p.poll() is None:
                p.kill()
        place.ctl("stop")
        time.sleep(0.2)
        for pid in place.processes():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=1)
    options = parser.parse_args()
    seen, failed = collections.Counter(), 0
    for seed in range(options.seed, options.seed + options.count):
        try:
            one(seed, seen)
        except Exception:
            failed += 1
            print(f"FAILED seed {seed}\n{traceback.format_exc(limit=-2)}", flush=True)
    for what, n in sorted(seen.items()):
        print(f"{n:4d}  {what}")
    print(f"seeds {options.seed} to {options.seed + options.count - 1}: {options.count - failed} kills came out well, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
