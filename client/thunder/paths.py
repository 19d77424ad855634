"""Where the package's files are: beside its .py files when installed, in a build tree when run from the sources.

`$THUNDER_BUILD_DIR` names the build tree; without it `build/` of the source tree is looked at."""
import os
import shutil

PACKAGE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(PACKAGE))


def build_dir():
    """The build tree to use files from, or None."""
    named = os.environ.get("THUNDER_BUILD_DIR")
    if named:
        return named
    guess = os.path.join(SOURCE, "build")
    return guess if os.path.isdir(os.path.join(guess, "proto")) else None


def _candidates(name, in_build):
    yield os.path.join(PACKAGE, name)
    yield os.path.join(PACKAGE, "_build", name)
    build = build_dir()
    if build:
        yield os.path.join(build, in_build, name)


def data_file(name, in_build):
    """Path of a data file of the package (`thunder.desc`, `ops.json`)."""
    tried = []
    # A build tree that was named on purpose comes first: the packaged copy may be older.
    order = list(_candidates(name, in_build))
    if os.environ.get("THUNDER_BUILD_DIR"):
        order.reverse()
    for path in order:
        if os.path.exists(path):
            return path
        tried.append(path)
    raise FileNotFoundError(f"thunder: {name} is missing; looked at {', '.join(tried)}. Build the project (make) or "
                            "set THUNDER_BUILD_DIR to a build tree.")


def program(name):
    """Path of one of the project's programs (`thunderd`): $THUNDER_BIN, the package, a build tree, PATH. None if absent."""
    places = [os.environ.get("THUNDER_BIN"), os.path.join(PACKAGE, "bin"), os.path.join(PACKAGE, "_build", "bin")]
    build = build_dir()
    if build:
        places.append(os.path.join(build, "bin"))
    for place in places:
        if place:
            path = os.path.join(place, name)
            if os.access(path, os.X_OK):
                return path
    return shutil.which(name)
