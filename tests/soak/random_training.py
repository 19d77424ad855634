"""Random trainings against eager PyTorch: a seed chooses model, sizes, optimizer, accumulation and ranks; 25 steps in f64, losses,
norms and parameters within 1e-9 of one-rank eager on the joined batch.

    random_training.py --seed 7 [--count 3]"""
import argparse
import os
import random
import subprocess
import sys
import tempfile

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "parity"))
import training  # noqa: E402


def choose(seed):
    """Sets the sizes of tests/parity/training.py; returns (config, ranks)."""
    r = random.Random(seed)
    training.STEPS, training.ROWS, training.LENGTH = 25, r.randint(1, 5), r.randint(2, 12)
    training.WIDTH, training.WORDS = r.choice((8, 16, 24, 32)), r.randint(3, 40)
    model = r.choice(list(training.MODELS))
    if model == "cnn":
        training.ROWS += 1  # batch norm's statistics
    return f"{model}-{r.choice(('sgd', 'adamw'))}-{r.choice((1, 1, 2, 5))}-f64", r.choice((1, 1, 2, 3))


def check(seed):
    config, ranks = choose(seed)
    wanted = training.eager(config, ranks)
    if ranks == 1:
        torch._dynamo.reset()
        got = [training.compiled(config)]
    else:
        with tempfile.TemporaryDirectory() as folder:
            command = [os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderrun"), "-n", str(ranks), sys.executable, __file__, "--seed", str(seed), "--rank-of", folder]
            done = subprocess.run(command, capture_output=True, text=True, timeout=280)
            assert done.returncode == 0, f"{config}, {ranks} ranks: exit code {done.returncode}\n{done.stderr[-3000:]}"
            got = [torch.load(os.path.join(folder, f"{r}.pt")) for r in range(ranks)]
    losses = [sum(parts) / ranks for parts in zip(*(g[0] for g in got))]
    worst = max(abs(a - b) / abs(a) for a, b in zip(wanted[0] + wanted[1], losses + got[0][1]))
    for name, a in wanted[2].items():
        worst = max(worst, (a.double() - got[0][2][name].double()).abs().max().item() if a.numel() else 0)
    assert worst < 1e-9, f"seed {seed}: {config}, {ranks} ranks, width {training.WIDTH}: {worst:.1e} from eager"
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        config, ranks = choose(options.seed)
        rank = int(os.environ["RANK"])
        torch.save(training.compiled(config, rank, ranks), os.path.join(options.rank_of, f"{rank}.pt"))
        return 0
    failed = 0
    for seed in range(options.seed, options.seed + options.count):
        try:
            check(seed)
        except Exception as error:
            failed += 1
            print(f"FAILED seed {seed} ({type(error).__name__}): {error}", flush=True)
    print(f"seeds {options.seed} to {options.seed + options.count - 1}: {options.count - failed} trainings equal eager's, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
