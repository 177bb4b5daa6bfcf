"""Other ways to do the worker's job, for `deploy.bench`: their libraries, installed for it alone, and their rates."""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from contract.errors import FramewatchError
from deploy.worker_process import python_command

RUN_SECONDS: Final = 300.0
_LOOPS_LOCK: Final = Path(__file__).with_name("bench-peers.lock")
_ANOMALIB_LOCK: Final = Path(__file__).with_name("bench-anomalib.lock")
_PICTURES: Final = 64
_console = Console(stderr=True)


def call(module: str, *arguments: str, libraries: Path | None = None) -> str:
    """Run a module of this Python's and give what it printed.

    Args:
        module: Its name.
        arguments: Its command line.
        libraries: Folder of further packages, which go before the installed ones.

    Raises:
        FramewatchError: It failed, or did not end.
    """
    command = python_command(module, *arguments)
    path = {"PYTHONPATH": f"{Path.cwd()}:{libraries}"} if libraries is not None else {}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **path}, timeout=RUN_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise FramewatchError(f"{module} {arguments[0]} did not end within {RUN_SECONDS:g} s") from error
    if done.returncode:
        raise FramewatchError(f"{module} {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def loops_libraries() -> Path:
    """Where Quix Streams and FastStream are."""
    return _installed(_LOOPS_LOCK)


def loop_rate(name: str, bundle: Path, servers: str, frames: int, group: str, libraries: Path, *options: str) -> float:
    """Frames/s of another loop, see `deploy.bench_loops`."""
    return _rate(call(
        "deploy.bench_loops", name, "--bundle", str(bundle), "--servers", servers, "--group", group,
        "--frames-topic", "frames", "--alerts-topic", "alerts", "--frames", str(frames), *options,
        libraries=libraries,
    ))  # fmt: skip


def anomalib_rate(folder: Path, encoded: Sequence[bytes], frames: int) -> float:
    """Frames/s of Anomalib's way, see `deploy.bench_anomalib`.

    Args:
        folder: For its model, which is fitted once, and for pictures.
        encoded: JPEG frames.
        frames: To score.
    """
    libraries = _installed(_ANOMALIB_LOCK)
    pictures, model = folder / "pictures", folder / "weights" / "openvino" / "model.xml"
    if not model.is_file():
        pictures.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(encoded[:_PICTURES]):
            (pictures / f"{number:04}.jpg").write_bytes(data)
        call("deploy.bench_anomalib", "fit", str(pictures), str(folder), libraries=libraries)
    arguments = "score", str(model), str(pictures), "--frames", str(frames)
    return _rate(call("deploy.bench_anomalib", *arguments, libraries=libraries))


def _rate(said: str) -> float:
    told = json.loads(said)
    return float(told["frames"] / told["seconds"])


def _installed(lock: Path) -> Path:
    """Folder of a hash-pinned lock's packages, installed there the first time.

    It names all that it needs and the project's own environment lacks.
    """
    folder = Path(".cache") / f"{lock.stem}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not folder.is_dir():
        _console.print(f"installing what {lock.name} pins, first time only", highlight=False)
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            target = str(Path(part) / "peers")
            call(
                "uv", "pip", "install", "--quiet", "--no-deps", "--target", target, "--require-hashes", "-r", str(lock)
            )
            Path(target).rename(folder)
    return folder.absolute()
