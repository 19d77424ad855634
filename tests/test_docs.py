"""The guide against the sources: environment variables, the programs' options, the dumps it shows, the files it names."""
import glob
import os
import re
import subprocess
import sys
import textwrap

import pytest

quick = pytest.mark.quick
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.environ.get("THUNDER_BIN", "")
ROOMS = ("ir", "executors", "collectives", "daemon", "client", "tests")
PROGRAMS = ("thunderrun", "thunderctl", "thunderd", "thunderc")


def text(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as f:
        return f.read()


def sources(*rooms):
    for room in rooms:
        for folder, _, files in os.walk(os.path.join(ROOT, room)):
            for name in files:
                if name.endswith((".c", ".h", ".py")) and name != "test_docs.py":
                    yield os.path.relpath(os.path.join(folder, name), ROOT)


def read_by(path):
    """Names of variables that a source reads: THUNDER_ as a whole literal (whatever function takes it), others where they are asked for."""
    code = text(path)
    asked = re.findall(r"""(?:getenv|environment|number|environ\.get|environ\[|environ\.setdefault)\s*\(?\s*["']([A-Z][A-Z0-9_]*)["']""", code)
    own = [] if path.startswith("tests" + os.sep) else re.findall(r"""["'](THUNDER_[A-Z0-9_]*[A-Z0-9])["']""", code)
    return set(own) | {name for name in asked if name.startswith("THUNDER_") or not path.startswith("tests" + os.sep)}


@quick
def test_environment_variables_in_both_directions():
    page = text("docs", "guide", "environment.rst")
    read = {name: path for path in sources(*ROOMS) for name in read_by(path)}
    assert len(read) > 30  # the search finds them
    named = set(re.findall(r"``([A-Z][A-Z0-9_]*[A-Z0-9])``", page))
    described = set(re.findall(r"``(THUNDER_[A-Z0-9_]+)``", "\n".join(re.findall(r"^``[^\n]*``$", page, re.M))))
    assert {name: path for name, path in read.items() if name.startswith("THUNDER_") and name not in described} == {}, "read, but docs/guide/environment.rst has no entry"
    assert {name: path for name, path in read.items() if name not in named} == {}, "read, but not on docs/guide/environment.rst"
    assert {name for name in named if name.startswith("THUNDER_")} - set(read) == set(), "on docs/guide/environment.rst, but nobody reads it"


@quick
def test_what_ranks_and_daemons_get():
    page = text("docs", "guide", "environment.rst")
    given = re.findall(r'\bset(?:_number|_default)?\(&env, "(\w+)"', text("daemon", "step", "main.c"))
    kept = re.search(r"is_kept.*?names\[\] = \{(.*?)\}", text("daemon", "thunderd", "main.c"), re.S)[1]
    assert len(given) > 10
    _, ranks = page.split("What the ranks get\n")
    ranks, daemon = ranks.split("What a daemon keeps\n---")
    assert [name for name in given if f"``{name}``" not in ranks] == []
    assert [name for name in re.findall(r'"(\w+?)=?"', kept) if f"``{name}``" not in daemon] == []
    assert sorted(re.findall(r"``([A-Z]\w+)``", daemon)) == sorted(re.findall(r'"(\w+?)=?"', kept))


def section(program):
    found = re.search(rf"^{program}\n-+\n(.*?)(?=^thunder[a-z-]*\n---|\Z)", text("docs", "guide", "programs.rst"), re.M | re.S)
    return found[1]


def options_in(words):
    return set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", words))


@quick
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(program):
    done = subprocess.run([os.path.join(BIN, program), "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith(f"usage: {program} ")
    helped = options_in(done.stdout)
    literals = " ".join(re.findall(r"``(-[^`]*)``", section(program)))
    assert "--version" in helped and helped - options_in(literals) == set(), "in --help, not in docs/guide/programs.rst"
    more = options_in(literals) - helped
    for option in more - {"-u"}:  # on the page only: refused by name, as the page says
        done = subprocess.run([os.path.join(BIN, program), option, "x", "x.py"], capture_output=True, text=True, timeout=30)
        assert program == "thunderrun" and done.returncode == 2 and "leave it out" in done.stderr, (option, done.stderr)
    for word in re.findall(r"^  ([a-z]+)  ", done.stdout, re.M):
        assert f"``{word}``" in section(program)


@quick
def test_dumps_are_what_thunderc_prints():
    done = subprocess.run([os.path.join(BIN, "thunderc"), "--dump-after=all", os.path.join(ROOT, "docs", "examples", "tiny.tir")], capture_output=True, text=True, timeout=60)
    printed = {}
    for block in re.split(r"^// ", done.stdout, flags=re.M)[1:]:
        title, _, body = block.partition("\n")
        printed[title.split(" (")[0]] = body.strip()
    shown = re.findall(r"^   :caption: (.+)\n\n((?:   .*\n|\n)+)", text("docs", "guide", "how.rst"), re.M)
    assert len(shown) == 4
    for title, body in shown:
        assert "\n".join(line[3:] for line in body.strip("\n").split("\n")).strip() == printed[title], title


READMES = [os.path.relpath(p, ROOT) for p in glob.glob(os.path.join(ROOT, "**", "README.md"), recursive=True) if "/build" not in p and "/." not in os.path.relpath(p, ROOT)]


@quick
@pytest.mark.parametrize("readme", sorted(READMES))
def test_files_that_a_readme_names_exist(readme):
    here = os.path.dirname(os.path.join(ROOT, readme))
    names = re.findall(r"`([\w/-]+(?:/|\.(?:c|h|py|def|proto|md|tir|txt|sh|json)))`", text(readme))
    missing = [n for n in names if not any(os.path.exists(os.path.join(at, n)) for at in (here, ROOT, os.path.join(ROOT, "build", "ir")))]
    assert missing == []


@quick
def test_every_public_name_is_on_the_api_page():
    import thunder
    page = text("docs", "guide", "api.rst")
    assert len(thunder.__all__) > 10
    assert [name for name in thunder.__all__ if not re.search(rf"^\.\. (auto)?(function|class|exception):: {name}(\(\))?$", page, re.M)] == []


@quick
def test_pages_are_in_the_index():
    index = text("docs", "index.rst")
    pages = [os.path.relpath(p, os.path.join(ROOT, "docs")) for kind in ("guide/*.rst", "design/*.md") for p in glob.glob(os.path.join(ROOT, "docs", kind))]
    assert len(pages) > 8
    assert [p for p in pages if f"   {os.path.splitext(p)[0]}\n" not in index] == []


@pytest.mark.parametrize("page", [pytest.param("hello", marks=quick), "profile", "train"])
def test_the_guides_programs_run(page, tmp_path):
    """The Python blocks of a page, one after the other, as one program."""
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text("docs", "guide", f"{page}.rst"), re.M)
    assert len(blocks) > 2
    program = tmp_path / f"{page}_page.py"  # profile.py would be Python's own
    program.write_text("\n".join(textwrap.dedent(block) for block in blocks))
    done = subprocess.run([sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
