"""What is compiled once is not compiled again, whatever happens to the files."""
import os
import random
import subprocess
import sys

import pytest


def test_a_second_process_compiles_nothing(place):
    script = place.script("a.py")
    assert place.origin(script) == "compiled"
    assert place.origin(script) == "memory"
    place.ctl("stop")
    assert place.origin(script) == "disk"
    assert place.number(r"compiles\s+(\d+) in") == 0


def test_misses_are_counted_once(place):
    place.origin(place.script("a.py"))
    assert place.number(r"(\d+) misses") == 1


def test_moved_renamed_and_commented(place):
    assert place.origin(place.script("a.py")) == "compiled"
    other = place.script("deep/er/b.py", text='''
        # a comment that was not there
        import sys, torch, thunder


        def g(renamed):
            product = renamed * 2.0  # and another name
            return product.sum()
        c = thunder.compile(g, fullgraph=True)
        print("result", float(c(torch.ones(4))))
        print("origin", *thunder.compile_stats(c).compiles)
        print(thunder.last_traces(c)[0])
        ''')
    code, out, err = place.run(other)
    assert code == 0, err
    assert "origin memory" in out and "b.py:7" in out and "a.py" not in out


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "garbage"])
def test_damaged_files_are_misses(place, damage):
    script = place.script("a.py")
    place.origin(script)
    place.ctl("stop")
    files = place.cache_files()
    assert len(files) == 1
    data = bytearray(open(files[0], "rb").read())
    if damage == "flip":
        data[random.Random(3).randrange(len(data) // 2, len(data))] ^= 4
    data = {"flip": data, "truncate": data[:len(data) // 2], "empty": b"", "garbage": os.urandom(len(data))}[damage]
    with open(files[0], "wb") as f:
        f.write(data)
    assert place.origin(script) == "compiled"
    assert place.number(r"damaged (\d+)") == 1
    place.ctl("stop")
    assert place.origin(script) == "disk"  # and was stored again


def test_the_cache_is_bounded(place):
    for i in range(6):
        place.origin(place.script(f"{i}.py", factor=float(i + 3)), THUNDER_CACHE_BYTES="60000")
    assert sum(os.path.getsize(f) for f in place.cache_files()) <= 60000
    assert place.number(r"evicted (\d+)") > 0


def test_a_full_disk_has_no_effect(place):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", place.env["THUNDER_CACHE_DIR"]], check=False, capture_output=True)
    full = os.path.ismount(place.env["THUNDER_CACHE_DIR"])
    script = place.script("a.py")
    try:
        if not full:  # no right to mount: a folder that cannot be written to is as good for a user who is not root
            os.chmod(place.env["THUNDER_CACHE_DIR"], 0o500)
        assert place.origin(script) == "compiled"
        assert place.origin(script) == "memory"
        if full:
            assert place.number(r"stores\s+\d+, failed (\d+)") == 1 and "No space left" in place.log()
    finally:
        place.ctl("stop")
        if full:
            subprocess.run(["umount", place.env["THUNDER_CACHE_DIR"]], check=True)


def test_a_cache_that_others_may_write_to_is_not_used(place):
    folder = os.path.join(place.env["THUNDER_CACHE_DIR"], "v1")
    os.makedirs(folder)
    os.chmod(folder, 0o777)
    script = place.script("a.py")
    assert place.origin(script) == "compiled"
    assert "kept in memory only" in place.log() and not place.cache_files()


def test_another_compiler_makes_other_results(place):
    script = place.script("a.py")
    assert place.origin(script) == "compiled"
    place.ctl("stop")
    wrapper = os.path.join(place.folder, "mycc")
    with open(wrapper, "w", encoding="utf-8") as f:
        f.write('#!/bin/sh\nexec cc "$@"\n')
    os.chmod(wrapper, 0o755)
    assert place.origin(script, THUNDER_CC=wrapper) == "compiled"
    place.ctl("stop")
    assert place.origin(script) == "disk"


def test_clear(place):
    script = place.script("a.py")
    place.origin(script)
    assert place.ctl("cache", "clear").returncode == 0
    assert not place.cache_files()
    assert place.origin(script) == "compiled"


def test_two_builds_do_not_meet(place):
    """Another build id has a daemon of its own; results are those of one's own build."""
    script = place.script("a.py")
    assert place.origin(script) == "compiled"
    first = place.daemon()
    program = f"""
import thunder.daemon as d
d.build_id = lambda: "9.9.9-other"
exec(open({script!r}).read())
"""
    done = subprocess.run([sys.executable, "-c", program], env=place.env, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "build" in done.stderr, done.stderr[-400:]
    assert place.daemon() == first and place.origin(script) == "memory"
