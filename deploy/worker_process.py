"""``worker run`` in a process of its own, watched through its metrics."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from contract.errors import FramewatchError
from deploy.broker import tied_to_parent

_STOP_SECONDS: Final = 20.0
_LOOK_EVERY_SECONDS: Final = 0.1
_T = TypeVar("_T")


class WorkerProcessError(FramewatchError):
    """A worker ended, or did not come to where it was expected in time."""


def python_command(module: str, *arguments: str) -> list[str]:
    """Name this Python's run of a module."""
    return [sys.executable, "-m", module, *arguments]


@contextmanager
def ended_at_exit(child: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End a process when the block is left, by force if need be."""
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


class WorkerProcess:
    """A worker; a context manager that starts and ends it.

    Args:
        folder: Where its settings and log are written, ``NAME.yaml`` and ``NAME.log``.
        settings: Of the worker; a free port is taken for its metrics.
        name: Of the files.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], name: str = "worker") -> None:
        self.log_path = folder / f"{name}.log"
        self._config = folder / f"{name}.yaml"
        self._settings = {**settings, "log_format": "json", "http": {"port": 0}}
        self._child: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self._config.write_text(json.dumps(self._settings, indent=2) + "\n", encoding="utf-8")
        command = tied_to_parent(python_command("worker", "run", "--config", str(self._config)))
        with self.log_path.open("wb") as log:
            self._child = subprocess.Popen(command, stderr=log, start_new_session=True)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with ended_at_exit(self._process):
            pass

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """CPU time that the worker has used, its threads' together."""
        return cpu_seconds(self.pid)

    def wait_until_ready(self, seconds: float) -> None:
        """Wait until partitions are assigned and the broker answers.

        Raises:
            WorkerProcessError: It ended, or was not ready in time.
        """

        def port_when_ready() -> int | None:
            lines = self.log_path.read_text(encoding="utf-8").splitlines()
            ports = [json.loads(line).get("http_port") for line in lines if '"http_port"' in line]
            return ports[0] if ports and _fetch(ports[0], "/readyz") is not None else None

        self._port = self.wait_until(port_when_ready, seconds, "ready")

    def wait_until_finished(self, frames: int, seconds: float) -> None:
        """Wait until so many frames are finished; raises as `wait_until_ready` does."""
        self.wait_until(lambda: self.finished_frames() >= frames or None, seconds, f"done with {frames} frames")

    def finished_frames(self) -> int:
        """Frames finished so far, whatever became of them."""
        return round(self.sum_metric("framewatch_frames_total"))

    def sum_metric(self, name: str) -> float:
        """Sum a metric over its labels."""
        lines = (_fetch(self._port, "/metrics") or "").splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))

    def read_label(self, name: str, label: str) -> str:
        """Read a label of a metric that has one series."""
        lines = (_fetch(self._port, "/metrics") or "").splitlines()
        line = next(line for line in lines if line.startswith(name + "{"))
        return line.partition(f'{label}="')[2].partition('"')[0]

    def stop(self) -> None:
        """Ask it to finish and wait.

        Raises:
            WorkerProcessError: It ended with an error.
        """
        self._process.terminate()
        if self._process.wait(_STOP_SECONDS):
            raise WorkerProcessError(f"the worker ended with {self._process.returncode}; see {self.log_path}")

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        assert self._child is not None, "the worker is not started"  # noqa: S101
        return self._child

    def wait_until(self, see: Callable[[], _T | None], seconds: float, what: str) -> _T:
        """Look until something is seen, and return it.

        Args:
            see: Gives None until then.
            seconds: How long.
            what: The worker is to be, for the message.

        Raises:
            WorkerProcessError: The worker ended, or it was not seen in time.
        """
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            found = see()
            if found is not None:
                return found
            if self._process.poll() is not None:
                log = self.log_path.read_text(encoding="utf-8").strip().splitlines()
                said = log[-1] if log else "it said nothing"
                raise WorkerProcessError(f"the worker ended with {self._process.returncode}: {said}")
            time.sleep(_LOOK_EVERY_SECONDS)
        raise WorkerProcessError(f"the worker was not {what} within {seconds:g} s; see {self.log_path}")


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, its threads' together, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_resident_bytes(pid: int) -> int:
    """The most memory that a process has had resident."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    [peak] = (line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def resident_bytes(pid: int) -> int:
    """Memory that a process has resident now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_descriptors(pid: int) -> int:
    """Number of descriptors that a process holds open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _fetch(port: int, path: str) -> str | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return None
