"""Programs that check what is not Python: those of `make tools`, and Debian's."""

import os
import shutil
import sys
from pathlib import Path

import pytest

_PLACES = (
    str(Path(__file__).parents[1] / ".cache" / "tools"),
    str(Path(sys.executable).parent),
    os.environ.get("PATH", ""),
    "/usr/sbin",
    "/sbin",
)


def tool(name):
    """Find a program; where it is not there, skip the test and say so, but fail it in CI."""
    found = shutil.which(name, path=os.pathsep.join(_PLACES))
    if found:
        return found
    reason = f"{name} is not here: `make tools` installs helm, compose-spec and actionlint, Debian has the rest"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
