"""Measures the CUDA provider on this machine's GPU, and writes docs/benchmarks/gpu.md.

``make gpu-check`` runs it; where there is no NVIDIA device it says so and does nothing. Parity: scores and labels of
the same clips on CUDA and on CPU. Throughput: frames/s of the detector's graph by batch size and precision, frames in
memory. End to end: frames/s of a worker on a real Kafka, as `deploy.bench` counts them, and the GPU's utilisation
meanwhile. Training: steps/s of a fit.
"""

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console

from contract.command_line import run_command_line
from contract.errors import FramewatchError
from contract.manifest import Precision, open_bundle
from contract.runtime import Detector, gpu_present
from deploy.bench import fill_topic, fitted_bundle, room_clips, room_frames, say_versions, versions, worker_rate
from deploy.broker import STANDARD_TOPICS, LocalBroker, create_topics
from deploy.measured import table
from trainer.checkpoint import load_checkpoint

OUT: Final = Path("bench-out")
PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "gpu.md"
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16")
_BATCHES: Final = (1, 8, 32, 128, 512)
_CLIPS: Final = 256
_ROUNDS: Final = 5
_SECONDS_A_ROUND: Final = 0.5
_MOST_APART: Final = {"fp32": 1e-3, "fp16": 0.1}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)


@dataclass
class Measured:
    """What was measured of one precision.

    Attributes:
        apart: Largest difference of a score from the CPU's.
        labels_apart: Frames on whose label the two differ.
        frames_per_second: By batch size.
    """

    apart: float
    labels_apart: int
    frames_per_second: dict[int, float] = field(default_factory=dict)


@app.command()
def gpu_check(
    preset: Annotated[str, typer.Option(help="Preset to measure.")] = "balanced",
    frames: Annotated[int, typer.Option(min=200, help="Frames of the worker's run.")] = 6000,
) -> None:
    """Measure and write the page; say so and do nothing where there is no GPU."""
    if not gpu_present():
        typer.echo("gpu-check skipped: this machine shows no NVIDIA device")
        return
    OUT.mkdir(exist_ok=True)
    clips = None
    measured: dict[str, Measured] = {}
    for precision in PRECISIONS:
        folder = fitted_bundle(preset, precision)
        bundle = open_bundle(folder)
        clips = room_clips(bundle.manifest, _CLIPS) if clips is None else clips
        measured[precision] = measure(Detector(bundle, "cuda"), Detector(bundle, "cpu"), clips)
        apart = measured[precision].apart
        if apart > _MOST_APART[precision]:
            raise FramewatchError(f"{precision} scores on CUDA and CPU are {apart:.3g} apart; see {folder}")
    with LocalBroker(log_path=OUT / "kafka.log") as broker, _Utilisation() as utilisation:
        create_topics(broker, STANDARD_TOPICS)
        fill_topic(broker.bootstrap_servers, room_frames(), frames)
        utilisation.clear()
        rate = worker_rate(fitted_bundle(preset, "fp16"), broker, frames, f"gpu-{time.time_ns()}")
    training = load_checkpoint(OUT / f"run-{preset}").training
    told = {
        "device": _device(),
        "preset": preset,
        "versions": versions(),
        "worker_frames_per_second": rate.frames_per_second,
        "utilisation_percent": utilisation.mean,
        "training_steps_per_second": training["steps"] / training["training_seconds"],
    }
    PAGE.write_text(page(told, measured), encoding="utf-8")
    typer.echo(PAGE)


def measure(on_gpu: Detector, on_cpu: Detector, clips: npt.NDArray[np.uint8]) -> Measured:
    """Compare scores and time batches.

    Args:
        on_gpu: The detector on CUDA.
        on_cpu: The same on CPU.
        clips: uint8 of shape (clips, clip_frames, height, width, input_channels).
    """
    threshold = on_cpu.bundle.manifest.calibration.threshold
    (scores, _), (expected, _) = on_gpu.score(clips), on_cpu.score(clips)
    labels_apart = int(((scores >= threshold) != (expected >= threshold)).sum())
    told = Measured(float(np.abs(scores - expected).max()), labels_apart)
    for size in _BATCHES:
        batch = np.resize(clips, (size, *clips.shape[1:]))
        on_gpu.score(batch)
        told.frames_per_second[size] = statistics.median(_rate(on_gpu, batch) for _ in range(_ROUNDS))
    return told


def _rate(detector: Detector, batch: npt.NDArray[np.uint8]) -> float:
    began, done = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < _SECONDS_A_ROUND:
        detector.score(batch)
        done += len(batch)
    return done / seconds


class _Utilisation:
    """Asks the driver once a second how busy the first GPU is."""

    def __init__(self) -> None:
        self._seen: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Utilisation":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def clear(self) -> None:
        """Begin anew."""
        self._seen.clear()

    @property
    def mean(self) -> float:
        """Percent."""
        return statistics.fmean(self._seen) if self._seen else 0.0

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self._seen.append(float(_ask_driver("utilization.gpu").split()[0]))


def _device() -> str:
    return _ask_driver("name,driver_version,memory.total")


def _ask_driver(fields: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise FramewatchError(f"nvidia-smi does not say {fields}: {error}") from error


def page(told: dict[str, Any], measured: dict[str, Measured]) -> str:
    """Write the figures as a page."""
    rows: Sequence[Sequence[str]] = [
        [
            precision,
            f"{one.apart:.2g}",
            str(one.labels_apart),
            *(f"{one.frames_per_second[size]:.0f}" for size in _BATCHES),
        ]
        for precision, one in measured.items()
    ]
    about = say_versions(told)
    end_to_end = "{:.0f} frames/s, the GPU busy for {:.0f}% of the time".format(
        told["worker_frames_per_second"], told["utilisation_percent"]
    )
    steps = f"{told['training_steps_per_second']:.1f} steps/s"
    return "\n".join(
        [
            "# On a GPU",
            "",
            f"Written by `make gpu-check` on {told['device']}; preset `{told['preset']}`, {about}.",
            "",
            *table(
                ("precision", "scores apart", "labels apart", *(f"frames/s, batch {size}" for size in _BATCHES)), rows
            ),
            "",
            f"A worker on a real Kafka, fp16: {end_to_end}. Training: {steps}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run_command_line(app, "gpu-check"))
