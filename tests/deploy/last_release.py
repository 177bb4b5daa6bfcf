"""The last release, installed beside the tree with the libraries that the tests run with."""

import subprocess
import sys
from pathlib import Path

RELEASES = Path(__file__).parent / "releases"


def install(folder):
    """Install its wheel into a folder; a `python -m` that is started there runs its modules, and no others'."""
    [wheel] = RELEASES.glob("*.whl")
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--target", folder]
    subprocess.run([*command, wheel], check=True)
    return folder


def run(folder, *arguments):
    """Run this Python in the folder, and return what it writes."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
