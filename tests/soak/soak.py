"""make soak HOURS=2: random tests for hours, outside CI: random programs and trainings against eager PyTorch, both fuzzers (with the
programs of build-asan, where there are any), processes killed at random.

Turn after turn each part gets seeds that were never used: tests/soak/summary.json, which is committed, holds the next seed, and for
each commit the seconds, what was run and which seeds failed. So a soak can be ended at any time (Ctrl-C) and gone on with later, in
another session. Ends with 1 when a seed failed; what the part printed is in tests/soak/failures/ (not committed): make it a test."""
import argparse
import json
import os
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
GOLDEN = os.path.join(ROOT, "tests", "conformance", "golden")


def fuzzer(name):
    places = [os.path.join(ROOT, "build-asan", "tests"), os.path.join(os.environ.get("THUNDER_BUILD_DIR", os.path.join(ROOT, "build")), "tests")]
    program = next(p for p in (os.path.join(place, name) for place in places) if os.path.exists(p))
    return lambda seed: [program, "--seed", str(seed), "--seconds", "60", GOLDEN]


def python(name, count):
    return lambda seed: [sys.executable, os.path.join(HERE, name), "--seed", str(seed), "--count", str(count)]


def parts():
    """name -> (seeds a turn takes, command for the first of them)."""
    return {"programs": (200, python("random_programs.py", 200)), "operators": (200, python("random_operators.py", 200)), "fuzz_text": (1, fuzzer("fuzz_text")),
            "training": (8, python("random_training.py", 8)), "fuzz_wire": (1, fuzzer("fuzz_wire")), "kills": (3, python("kills.py", 3))}


def commit():
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no", ":!tests/soak/summary.json"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return (head or "unknown") + ("+changes" if dirty else "")


def count(name, output, entry):
    """Adds up what a part says of itself."""
    totals = entry.setdefault("totals", {})
    patterns = {"programs": r"(\d+) (compared)", "operators": r"(\d+) (compared)", "training": r"(\d+) (trainings equal)", "kills": r"(\d+) (kills came out well)"}
    if name in patterns:
        m = re.search(patterns[name], output)
        found = [(m[2], int(m[1]))] if m else []
    else:
        m = re.search(r"(\d+) inputs: (\d+) read, (\d+) verified, (\d+) reached the passes", output)
        found = list(zip(("inputs", "read", "verified", "reached the passes"), map(int, m.groups()))) if m else []
    for what, n in found:
        totals[what] = totals.get(what, 0) + n
    if name == "kills":
        seen = entry.setdefault("histogram", {})
        for n, what in re.findall(r"^ +(\d+)  (.+)$", output, re.M):
            seen[what] = seen.get(what, 0) + int(n)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1)
    parser.add_argument("--parts", default=",".join(parts()))
    parser.add_argument("--summary", default=os.path.join(HERE, "summary.json"))
    options = parser.parse_args()
    known = parts()
    chosen = options.parts.split(",")
    if set(chosen) - set(known):
        parser.error(f"unknown part {sorted(set(chosen) - set(known))}, there are {', '.join(known)}")
    summary = {"next_seed": {}, "runs": []}
    if os.path.exists(options.summary):
        with open(options.summary) as f:
            summary = json.load(f)
    run = {"commit": commit(), "began": time.strftime("%Y-%m-%d %H:%M"), "seconds": 0, "parts": {}}
    summary["runs"].append(run)
    began, failed = time.time(), 0

    def save():
        run["seconds"] = round(time.time() - began)
        with open(options.summary + ".new", "w") as f:
            json.dump(summary, f, indent=1)
            f.write("\n")
        os.replace(options.summary + ".new", options.summary)
    try:
        turn = 0
        while time.time() - began < options.hours * 3600:
            name = chosen[turn % len(chosen)]
            turn += 1
            seeds, command = known[name]
            seed = summary["next_seed"].get(name, 1)
            started = time.time()
            os.makedirs(os.path.join(HERE, "failures"), exist_ok=True)
            done = subprocess.run(command(seed), cwd=os.path.join(HERE, "failures"), capture_output=True, text=True, errors="replace")
            summary["next_seed"][name] = seed + seeds
            entry = run["parts"].setdefault(name, {"seconds": 0, "first_seed": seed, "failures": []})
            entry["seconds"], entry["last_seed"] = round(entry["seconds"] + time.time() - started), seed + seeds - 1
            output = done.stdout + done.stderr
            count(name, output, entry)
            if done.returncode:
                failed += 1
                bad = [int(s) for s in re.findall(r"FAILED seed (\d+)", output)] or [seed]
                entry["failures"] += bad
                with open(os.path.join(HERE, "failures", f"{name}-{bad[0]}.txt"), "w") as f:
                    f.write(output)
            print(f"{time.time() - began:6.0f} s  {name} from seed {seed}: {'ok' if not done.returncode else f'FAILED seeds {bad}'}", flush=True)
            save()
    except KeyboardInterrupt:
        pass
    save()
    print(json.dumps(run, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
