"""Measures the CUDA provider on this machine's GPU, and writes docs/benchmarks/gpu.md.

``make gpu-check`` runs it; where there is no NVIDIA device it says so and does nothing. Parity: scores and labels of
the same clips on CUDA and on CPU. Throughput: frames/s of the detector's graph by batch size and precision, frames in
memory. End to end: frames/s of one and of several workers on a real Kafka, and how busy the GPU is meanwhile.
Training: steps/s of a fit, as `deploy.bench_train` measures them.
"""

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
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
from deploy.bench import OUT, fill_topic, fitted_bundle, room_clips, room_frames, say_versions, versions
from deploy.bench_live import group_rate
from deploy.bench_train import measure as measure_training
from deploy.broker import STANDARD_TOPICS, LocalBroker, create_topics
from deploy.measured import table
from worker.cores import cores_given

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "gpu.md"
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16")
GROUPS: Final = (1, 2, 4)
_BATCHES: Final = (1, 8, 32, 128, 512)
_CLIPS: Final = 256
_CPU_BATCH: Final = 32
_ROUNDS: Final = 5
_SECONDS_A_ROUND: Final = 0.3
_TRAINING_ROUNDS: Final = 5
_MOST_APART: Final = {"fp32": 1e-3, "fp16": 0.1}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)


@dataclass
class Measured:
    """What was measured of one model.

    Attributes:
        preset: It is of.
        precision: It computes in.
        apart: Largest difference of a score from the CPU's.
        labels_apart: Frames on whose label the two differ.
        on_cpu: Frames/s on all cores, in batches of `_CPU_BATCH`.
        frames_per_second: On CUDA, by batch size.
    """

    preset: str
    precision: str
    apart: float
    labels_apart: int
    on_cpu: float
    frames_per_second: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """What workers in one group did of a topic on a real Kafka.

    Attributes:
        preset: They run.
        workers: How many.
        frames_per_second: Together.
        utilisation_percent: Share of time during which the GPU ran anything, from their start to their end.
        memory_mib: The most of the GPU's memory in use.
    """

    preset: str
    workers: int
    frames_per_second: float
    utilisation_percent: float
    memory_mib: float


@app.command()
def gpu_check(
    presets: Annotated[str, typer.Option(help="Presets to measure, separated by commas.")] = "fast,balanced,best",
    frames: Annotated[int, typer.Option(min=200, help="Frames on the topic.")] = 24_000,
    steps: Annotated[int, typer.Option(min=2, help="Training steps of a round.")] = 100,
) -> None:
    """Measure and write the page; say so and do nothing where there is no GPU."""
    if not gpu_present():
        typer.echo("gpu-check skipped: this machine shows no NVIDIA device")
        return
    OUT.mkdir(exist_ok=True)
    names = presets.split(",")
    # First, so that the memory in use is the workers'.
    with LocalBroker(log_path=OUT / "kafka.log") as broker:
        create_topics(broker, STANDARD_TOPICS)
        fill_topic(broker.bootstrap_servers, room_frames(), frames)
        groups = [_group(preset, count, broker, frames) for preset in names for count in GROUPS]
    measured = [one for preset in names for one in _measured(preset)]
    training = {preset: measure_training(preset, _TRAINING_ROUNDS, steps) for preset in names}
    told = {
        "date": time.strftime("%Y-%m-%d"),
        "device": _ask_driver("name,driver_version,memory.total"),
        "cores": cores_given(),
        "versions": {**versions(), "torch": version("torch")},
    }
    text = page(told, measured, groups, training)
    PAGE.write_text(text, encoding="utf-8")
    typer.echo(text)


def _measured(preset: str) -> Iterator[Measured]:
    bundles = [open_bundle(fitted_bundle(preset, precision)) for precision in PRECISIONS]
    clips = room_clips(bundles[0].manifest, _CLIPS)
    for bundle in bundles:
        told = measure(preset, Detector(bundle, "cuda"), Detector(bundle, "cpu"), clips)
        _console.print(told, highlight=False)
        if told.apart > _MOST_APART[told.precision]:
            raise FramewatchError(
                f"{told.precision} scores on CUDA and CPU are {told.apart:.3g} apart; see {bundle.folder}"
            )
        yield told


def _group(preset: str, count: int, broker: LocalBroker, frames: int) -> Group:
    bundle = fitted_bundle(preset, "fp16")
    with _Driver() as driver:
        rate = group_rate(bundle, broker.bootstrap_servers, f"{preset}-{count}", count, frames)
    told = Group(preset, count, rate, driver.utilisation_percent, driver.memory_mib)
    _console.print(told, highlight=False)
    return told


def measure(preset: str, on_gpu: Detector, on_cpu: Detector, clips: npt.NDArray[np.uint8]) -> Measured:
    """Compare scores and time batches.

    Args:
        preset: Of the bundle.
        on_gpu: The detector on CUDA.
        on_cpu: The same on CPU.
        clips: uint8 of shape (clips, clip_frames, height, width, input_channels).
    """
    manifest = on_cpu.bundle.manifest
    threshold = manifest.calibration.threshold
    (scores, _), (expected, _) = on_gpu.score(clips), on_cpu.score(clips)
    labels_apart = int(((scores >= threshold) != (expected >= threshold)).sum())
    on_cpu_rate = statistics.median(_rate(on_cpu, clips[:_CPU_BATCH]) for _ in range(_ROUNDS))
    told = Measured(preset, manifest.precision, float(np.abs(scores - expected).max()), labels_apart, on_cpu_rate)
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


class _Driver:
    """Asks the driver once a second how busy the first GPU is, while the block runs."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Driver":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def utilisation_percent(self) -> float:
        """Mean of what was seen; 0 where nothing was."""
        return statistics.fmean(busy for busy, _ in self._seen) if self._seen else 0.0

    @property
    def memory_mib(self) -> float:
        """The most that was seen; 0 where nothing was."""
        return max((memory for _, memory in self._seen), default=0.0)

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            busy, memory = (one.split()[0] for one in _ask_driver("utilization.gpu,memory.used").split(","))
            self._seen.append((float(busy), float(memory)))


def _ask_driver(fields: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise FramewatchError(f"nvidia-smi does not say {fields}: {error}") from error


def page(
    told: dict[str, Any],
    measured: Sequence[Measured],
    groups: Sequence[Group],
    training: Mapping[str, Mapping[str, float]],
) -> str:
    """Write the figures as a page.

    Args:
        told: ``date``, ``device``, ``cores`` and ``versions``.
        measured: Of each model.
        groups: Of each group of workers.
        training: What `deploy.bench_train.measure` says, by preset.
    """
    models = [
        [
            one.preset, one.precision, f"{one.apart:.2g}", str(one.labels_apart), f"{one.on_cpu:.0f}",
            *(f"{one.frames_per_second[size]:.0f}" for size in _BATCHES),
        ]
        for one in measured
    ]  # fmt: skip
    workers = [
        [
            one.preset, str(one.workers), f"{one.frames_per_second:.0f}", f"{one.utilisation_percent:.0f}%",
            f"{one.memory_mib:.0f}",
        ]
        for one in groups
    ]  # fmt: skip
    fits = [
        [
            preset, f"{one['batch']:.0f}", f"{one['fit_steps_per_second']:.1f}", f"{one['bare_steps_per_second']:.1f}",
            f"{one['ratio']:.2f}",
        ]
        for preset, one in training.items()
    ]  # fmt: skip
    return "\n".join(
        [
            "# On a GPU",
            "",
            f"Written by `make gpu-check`, {told['date']}, on {told['device']}, with {told['cores']} cores;",
            f"{say_versions(told)}.",
            "",
            f"The model alone, clips in memory, frames/s: on all cores in batches of {_CPU_BATCH}, and on CUDA by the",
            "batch's size. Scores and labels are compared with those of the same bundle on the CPU.",
            "",
            *table(
                ("preset", "precision", "scores apart", f"labels apart, of {_CLIPS}", "CPU", *map(str, _BATCHES)),
                models,
            ),
            "",
            "Workers in one group on a real Kafka on the same machine, fp16, JPEG frames of 640x360 from four cameras:",
            "",
            *table(("preset", "workers", "frames/s", "GPU busy", "GPU memory in use, MiB"), workers),
            "",
            "Training steps a second of `trainer fit`, and of a bare loop on batches in memory:",
            "",
            *table(("preset", "batch", "fit", "bare loop", "fit / bare"), fits),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run_command_line(app, "gpu-check"))
