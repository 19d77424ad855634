"""A small part of `make soak` in every test run, with seeds that stay: programs and trainings. What a soak found is here too. (Kills come
at the moment they come, whatever the seed: they stay in the soak; tests/daemon kills at fail points.)"""
import os
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))


def run(program, seed, count):
    done = subprocess.run([sys.executable, os.path.join(HERE, program), "--seed", str(seed), "--count", str(count)], capture_output=True, text=True, timeout=280)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


@pytest.mark.parametrize("seed, count", [(0, 60), (143, 1), (20019, 1), (421, 1), (536, 1), (597, 1), (1857, 1)])
def test_programs(seed, count):
    run("random_programs.py", seed, count)


def test_operators():
    run("random_operators.py", 1, 60)


def test_trainings():
    run("random_training.py", 1, 3)
