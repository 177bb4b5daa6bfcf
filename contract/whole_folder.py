"""A folder that appears whole or not at all, whenever the process that writes it dies."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.errors import ConfigError


def require_free(out: Path, *, replaceable: bool = False) -> Path:
    """Check, before any work is done, that a folder can be put in place.

    Args:
        out: The folder that is to be written; it may be missing, empty, or hold what may be replaced.
        replaceable: Whether what it holds may be replaced.

    Returns:
        Its absolute path.

    Raises:
        ConfigError: It is a file, lies in a file, is the current folder, or holds other files.
    """
    try:
        out = out.resolve()
    except RuntimeError as error:  # what Python 3.11 makes of a loop of links
        raise ConfigError(f"--out {out} is a loop of links; name a new folder") from error
    if out == Path.cwd():
        raise ConfigError("--out is the current folder; name a new one")
    if any(parent.is_file() for parent in out.parents):
        raise ConfigError(f"--out {out} lies in a file; name a new folder")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not replaceable)):
        raise ConfigError(f"--out {out} is in use; name a new or empty folder")
    return out


@contextmanager
def whole_folder(out: Path, *, replaceable: bool = False) -> Iterator[Path]:
    """Give a folder to write into, which takes its place at ``out`` when the block ends without an error.

    It is written beside ``out`` and renamed. What it replaces stays until then, and stays for good after an error.

    Args:
        out: The folder.
        replaceable: Whether what it holds may be replaced.

    Raises:
        ConfigError: As `require_free`.
    """
    out = require_free(out, replaceable=replaceable)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name[:32]}.", dir=out.parent) as parent:
        folder, before = Path(parent) / "new", Path(parent) / "before"
        folder.mkdir(mode=0o755)
        yield folder
        if not out.exists():
            folder.rename(out)
            return
        if not replaceable:
            out.rmdir()
            folder.rename(out)
            return
        out.rename(before)
        try:
            folder.rename(out)
        except OSError:
            # The folder around both is about to be removed, and with it what stood here.
            before.rename(out)
            raise
