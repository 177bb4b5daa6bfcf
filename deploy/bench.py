"""Measures the worker against what its parts cost alone and against other ways to do the same job.

``make bench`` runs it: a real Kafka, real footage (the room clip, at 640x360), one model a preset, fitted for one
epoch, since speed does not depend on the weights. Repetitions are interleaved, and one during which other processes
used more than 0.15 core is repeated. Prints one JSON object, and writes docs/benchmarks/worker.md.

pipeline_efficiency  frames/s times the CPU time a frame of Kafka, decoding, motion and model, each measured alone in
                     the same repetition, over the cores less the broker's share
model_share          the model's CPU time a frame over the worker's
vs_NAME              frames/s over those of the same job done by another loop (`deploy.bench_loops`), the better of ONNX
                     Runtime's default threads and one; vs_NAME_our_preprocessing where it decodes as the worker does
vs_anomalib          frames/s over those of Anomalib's PaDiM in OpenVINO, a picture after another, without Kafka
"""

import itertools
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import typer
from kafka import KafkaConsumer
from rich.console import Console

from contract import __version__
from contract.command_line import run_command_line
from contract.frame import Frame, FrameLimits, Preprocessing, decode_frame, encode_jpeg
from contract.manifest import Manifest, open_bundle
from contract.motion import MotionChannels
from contract.runtime import Detector
from contract.window import ClipWindow
from deploy.bench_loops import LOOPS
from deploy.bench_peers import RUN_SECONDS, anomalib_rate, call, loop_rate, loops_libraries
from deploy.broker import STANDARD_TOPICS, LocalBroker, create_topics
from deploy.demo import VIDEO
from deploy.measured import data_folder, table
from deploy.worker_process import WorkerProcess, cpu_seconds
from worker.cores import cores_given
from worker.delivery import Delivery
from worker.parts import CLIPS_AT_ONCE
from worker.records import OutgoingRecord
from worker.settings import KafkaSettings

OUT: Final = Path("bench-out")
PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "worker.md"
_CAMERAS: Final = 4
_WIDTH, _HEIGHT = 640, 360
_SENT_AT_ONCE: Final = 64
_STAGE_FRAMES: Final = 400
_JPEG_QUALITY: Final = 85
_LARGE: Final = (1920, 1080)
_LARGE_FRAMES: Final = 40
_TIMES: Final = 5
_MODEL_CLIPS: Final = 128
_ANOMALIB_FRAMES: Final = 200
_MOST_FETCHED: Final = 20_000
_OFTEN_MS: Final = 100
DELIVERIES: Final = ("at_least_once", "exactly_once")
_MAX_FOREIGN_CORES: Final = 0.15
_MAX_REPEATS: Final = 3
_SHORT_FRAMES: Final = 600
_SHORT_PEER_FRAMES: Final = 200
_READY_SECONDS: Final = 60.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)


@app.command()
def bench(
    presets: Annotated[str, typer.Option(help="Presets to measure, separated by commas.")] = "balanced",
    frames: Annotated[int, typer.Option(min=200, help="Frames of one repetition.")] = 6000,
    peer_frames: Annotated[int, typer.Option(min=100, help="Of them, those that the other loops do.")] = 1200,
    repetitions: Annotated[int, typer.Option(min=1, help="Of everything, interleaved.")] = 5,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    *,
    short: Annotated[
        bool, typer.Option("--short", help="One repetition of few frames; the page is left as it is.")
    ] = False,
) -> None:
    """Measure, print one JSON object, and write the page."""
    if short:
        frames, peer_frames, repetitions = _SHORT_FRAMES, _SHORT_PEER_FRAMES, 1
    OUT.mkdir(exist_ok=True)
    encoded = room_frames()
    libraries = loops_libraries()
    results = {}
    with LocalBroker(log_path=OUT / "kafka.log") as broker:
        create_topics(broker, STANDARD_TOPICS)
        fill_topic(broker.bootstrap_servers, encoded, frames)
        for preset in presets.split(","):
            bundle = fitted_bundle(preset, precision)
            runs = [
                _repetition(bundle, broker, encoded, (frames, peer_frames), libraries, number, with_anomalib=not short)
                for number in range(repetitions)
            ]
            results[preset] = summary(runs)
        decoding = decoding_gains(open_bundle(bundle).manifest.preprocessing)
    told = {
        "versions": versions(),
        "cores": cores_given(),
        "frames": frames,
        "peer_frames": peer_frames,
        "frame_bytes": round(statistics.mean(map(len, encoded))),
        "precision": precision,
        "presets": results,
        "decoding_1080p": decoding,
    }
    if not short:
        PAGE.write_text(page(told), encoding="utf-8")
    typer.echo(json.dumps(told, indent=2))


@dataclass(frozen=True)
class Rate:
    """What a consumer of the whole topic did.

    Attributes:
        frames_per_second: From its first frame to its last.
        cpu_ms: Its CPU time a frame, milliseconds.
        broker_cores: Cores that the broker used meanwhile.
        foreign_cores: Cores that other processes used meanwhile.
    """

    frames_per_second: float
    cpu_ms: float
    broker_cores: float
    foreign_cores: float


def room_frames() -> list[bytes]:
    """Read the room clip as JPEG frames of 640x360, quality 85."""
    return list(_read_frames(VIDEO, (_WIDTH, _HEIGHT)))


def _read_frames(video: Path, size: tuple[int, int]) -> Iterator[bytes]:
    """Encode a video's frames, brought to a width and height, as JPEG of quality 85."""
    capture = cv2.VideoCapture(str(video))
    while True:
        there, picture = capture.read()
        if not there:
            return
        interpolation = cv2.INTER_AREA if picture.shape[1] > size[0] else cv2.INTER_CUBIC
        picture = cv2.resize(picture, size, interpolation=interpolation)
        yield encode_jpeg(np.asarray(picture, np.uint8), _JPEG_QUALITY)


def frame_records(encoded: Sequence[bytes], frames: int, topic: str = "frames") -> Iterator[OutgoingRecord]:
    """Make the records of four cameras in turn, which show the same room at different times."""
    for number in range(frames):
        camera, place = number % _CAMERAS, number // _CAMERAS
        data = encoded[(place + camera * len(encoded) // _CAMERAS) % len(encoded)]
        yield OutgoingRecord(topic, f"room-{camera}".encode(), data, [])


def fill_topic(servers: str, encoded: Sequence[bytes], frames: int) -> None:
    """Put frames onto the topic, a millisecond from one to the next."""
    _console.print(f"{frames} frames onto the topic", highlight=False)
    delivery = Delivery(KafkaSettings(bootstrap_servers=servers), linger_ms=5)
    now_ms = round(time.time() * 1000)
    numbered = enumerate(frame_records(encoded, frames))
    while some := list(itertools.islice(numbered, _SENT_AT_ONCE)):
        delivery.send([record._replace(timestamp_ms=now_ms + number) for number, record in some])
    delivery.close(10)


def fitted_bundle(preset: str, precision: str) -> Path:
    """Fit a preset for one epoch and export it, once a checkout, and name the bundle's folder."""
    folder = OUT / f"{preset}-{precision}"
    if not (folder / "manifest.json").is_file():
        _console.print(f"{preset}: fit one epoch and export", highlight=False)
        run = OUT / f"run-{preset}"
        if not (run / "checkpoint.pt").is_file():
            shutil.rmtree(run, ignore_errors=True)
            call("trainer", "fit", f"{VIDEO}#0:300", "--preset", preset, "--epochs", "1", "--out", str(run))
        call("exporter", "build", str(run), "--out", str(folder), "--precision", precision, "--name", preset)
    return folder


def _repetition(
    bundle: Path, broker: LocalBroker, encoded: Sequence[bytes], frames: tuple[int, int], libraries: Path, number: int,
    *, with_anomalib: bool,
) -> dict[str, Any]:  # fmt: skip
    """Measure everything once, in another order each time; ``frames`` are the worker's and the other loops'."""
    group = f"{bundle.name}-{number}-{time.time_ns()}"

    def loop(name: str, *options: str) -> Callable[[], Any]:
        its_own = f"{group}-{'-'.join((name, *options))}"
        return lambda: loop_rate(name, bundle, broker.bootstrap_servers, frames[1], its_own, libraries, *options)

    def often(delivery: str) -> Callable[[], Rate]:
        def measure(tried: int) -> Rate:
            its_own = f"{group}-{delivery}-{tried}"
            return worker_rate(bundle, broker, frames[0] // 2, its_own, delivery, _OFTEN_MS)

        return lambda: _quiet(measure)

    measures: list[tuple[str, Callable[[], Any]]] = [
        ("worker", lambda: _quiet(lambda tried: worker_rate(bundle, broker, frames[0], f"{group}-{tried}"))),
        ("stages", lambda: stage_costs(bundle, encoded, broker.bootstrap_servers, f"{group}-stages", frames[0])),
    ]
    measures += [(delivery, often(delivery)) for delivery in DELIVERIES]
    for name in LOOPS:
        measures += [
            (name, loop(name, "--threads", "0")),
            (f"{name}, one thread", loop(name, "--threads", "1")),
            (f"{name}, our preprocessing", loop(name, "--threads", "1", "--our-preprocessing")),
        ]
    if with_anomalib:
        measures.append(("anomalib", lambda: anomalib_rate(OUT / "anomalib", encoded, _ANOMALIB_FRAMES)))
    turned = measures[number % len(measures) :] + measures[: number % len(measures)]
    told = {}
    for name, measure in turned:
        told[name] = measure()
        _console.print(f"{bundle.name}, repetition {number + 1}, {name}: {told[name]}", highlight=False)
    return told


def _quiet(measure: Callable[[int], Rate]) -> Rate:
    """Repeat a measurement while other processes use more than 0.15 core, a few times."""
    for tried in range(_MAX_REPEATS):
        rate = measure(tried)
        if rate.foreign_cores <= _MAX_FOREIGN_CORES:
            break
    return rate


def worker_rate(
    bundle: Path, broker: LocalBroker, frames: int, group: str, delivery: str = "at_least_once", commit_ms: int = 500
) -> Rate:
    """Let a worker read so many frames of the topic, and tell its rate from the tenth of them on.

    Args:
        bundle: It runs.
        broker: Holds the topic.
        frames: That the topic holds at least.
        group: The worker's.
        delivery: Setting ``kafka.delivery``.
        commit_ms: Setting ``batch.commit_interval_ms``.
    """
    kafka = {
        "bootstrap_servers": broker.bootstrap_servers, "group_id": group, "auto_offset_reset": "earliest",
        "delivery": delivery,
    }  # fmt: skip
    batch = {"commit_interval_ms": commit_ms}
    settings = {"bundle": str(bundle), "log_level": "INFO", "kafka": kafka, "batch": batch}
    with WorkerProcess(OUT, settings) as worker:
        worker.wait_until_ready(_READY_SECONDS)
        # From when it is warm to its last frame.
        worker.wait_until_finished(frames // 10, RUN_SECONDS)
        with _Usage(worker.pid, broker.pid) as usage:
            first = worker.finished_frames()
            worker.wait_until_finished(frames, RUN_SECONDS)
        worker.stop()
    return usage.rate(frames - first)


class _Usage:
    """What processes used of the machine while the block ran."""

    def __init__(self, worker_pid: int, broker_pid: int) -> None:
        self._pids = worker_pid, broker_pid

    def __enter__(self) -> "_Usage":
        self._began = self._now()
        return self

    def __exit__(self, *_error: object) -> None:
        self._used = np.subtract(self._now(), self._began)

    def rate(self, frames: int) -> Rate:
        """Tell it as rates."""
        seconds, worker, broker, mine, all_processes = self._used.tolist()
        foreign = max(0.0, all_processes - worker - broker - mine) / seconds
        return Rate(frames / seconds, worker / frames * 1000, broker / seconds, foreign)

    def _now(self) -> list[float]:
        jiffies = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]
        # Idle, waiting for a disk, and guests, whose time is in that of their hosts.
        busy = sum(jiffies[:8]) - jiffies[3] - jiffies[4]
        used = [cpu_seconds(pid) for pid in self._pids]
        return [time.monotonic(), *used, sum(os.times()[:2]), busy / os.sysconf("SC_CLK_TCK")]


def stage_costs(folder: Path, encoded: Sequence[bytes], servers: str, group: str, frames: int) -> dict[str, float]:
    """Measure what each part costs alone, on one thread.

    Args:
        folder: Of the bundle.
        encoded: Frames to decode.
        servers: Of the broker.
        group: To fetch in.
        frames: That the topic holds.

    Returns:
        CPU time a frame, milliseconds: ``kafka``, ``decode``, ``motion`` and ``model``.
    """
    bundle = open_bundle(folder)
    preprocessing = bundle.manifest.preprocessing
    some = [encoded[number % len(encoded)] for number in range(_STAGE_FRAMES)]
    costs: dict[str, float] = {}
    with _one_thread():
        with _timed(costs, "decode", _STAGE_FRAMES):
            pictures = [decode_frame(data, preprocessing, FrameLimits()) for data in some]
        channels = MotionChannels(preprocessing)
        with _timed(costs, "motion", _STAGE_FRAMES):
            for picture in pictures:
                channels.push(picture)
        clips = clips_of(pictures[:_MODEL_CLIPS], bundle.manifest)
        detector = Detector(bundle, "cpu", 1)
        detector.score(clips[:CLIPS_AT_ONCE])
        with _timed(costs, "model", len(clips)):
            for start in range(0, len(clips), CLIPS_AT_ONCE):
                detector.score(clips[start : start + CLIPS_AT_ONCE])
        consumer = KafkaConsumer(
            "frames", bootstrap_servers=servers, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
            max_partition_fetch_bytes=16 * 2**20, fetch_max_bytes=50 * 2**20,
        )  # fmt: skip
        while not consumer.assignment():
            consumer.poll(100, max_records=1)
        consumer.seek_to_beginning()
        count = 0
        with _timed(costs, "kafka", 1):
            # To the end, since the client fetches ahead of what is polled.
            while count < min(frames, _MOST_FETCHED):
                count += sum(len(part) for part in consumer.poll(500, max_records=32).values())
        costs["kafka"] /= count
        consumer.close(autocommit=False)
    return costs


def decoding_gains(preprocessing: Preprocessing) -> dict[str, dict[str, float]]:
    """Compare the decoding chain with decoding a whole grey picture and shrinking it, on frames of 1920x1080.

    Returns:
        For each footage there is: bytes and CPU milliseconds a frame, of the chain and of the other, and their ratio.
    """
    retail = data_folder(None) / "clips" / "retail_1080p.mp4"
    footage = {"the room, enlarged": VIDEO, **({"clips/retail_1080p.mp4": retail} if retail.is_file() else {})}
    size = preprocessing.width, preprocessing.height

    def whole(data: bytes) -> object:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert picture is not None  # noqa: S101 - encoded above
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)

    ways: dict[str, Callable[[bytes], object]] = {
        "chain": lambda data: decode_frame(data, preprocessing, FrameLimits()),
        "whole": whole,
    }
    told = {}
    with _one_thread():
        for name, video in footage.items():
            some = list(itertools.islice(_read_frames(video, _LARGE), _LARGE_FRAMES))
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for _, (way, decode) in itertools.product(range(_TIMES), ways.items()):
                costs: dict[str, float] = {}
                with _timed(costs, way, len(some)):
                    for data in some:
                        decode(data)
                taken[way].append(costs[way])
            chain, other = (statistics.median(taken[way]) for way in ("chain", "whole"))
            told[name] = {
                "frame_bytes": round(statistics.mean(map(len, some))),
                "chain_ms": round(chain, 2),
                "whole_ms": round(other, 2),
                "gain": round(other / chain, 2),
            }
    return told


def room_clips(manifest: Manifest, count: int) -> npt.NDArray[np.uint8]:
    """Read the room's first clips as a detector takes them, uint8 (count, clip_frames, height, width, channels)."""
    decoded = [decode_frame(data, manifest.preprocessing, FrameLimits()) for data in room_frames()[:count]]
    return clips_of(decoded, manifest)


def clips_of(pictures: Sequence[Frame], manifest: Manifest) -> npt.NDArray[np.uint8]:
    """Make the clips that a camera's decoded frames end."""
    window = ClipWindow(manifest.shape.clip_frames, manifest.preprocessing)
    return np.stack([window.push(picture) for picture in pictures])


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


@contextmanager
def _timed(costs: dict[str, float], name: str, frames: int) -> Iterator[None]:
    began = time.process_time()
    yield
    costs[name] = (time.process_time() - began) / frames * 1000


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the repetitions, and the spread of what is compared.

    Args:
        runs: Of each repetition: ``worker`` a `Rate`, ``stages`` milliseconds a frame, and frames/s of each other loop.
    """
    cores = cores_given()

    def median(values: Iterator[float] | Sequence[float]) -> float:
        return round(statistics.median(values), 4)

    def efficiency(run: dict[str, Any]) -> float:
        bare = sum(run["stages"].values()) / 1000
        return float(run["worker"].frames_per_second * bare / (cores - run["worker"].broker_cores))

    def times(name: str, run: dict[str, Any]) -> float:
        return float(run["worker"].frames_per_second / max(run[name], run[f"{name}, one thread"]))

    def times_ours(name: str, run: dict[str, Any]) -> float:
        return float(run["worker"].frames_per_second / run[f"{name}, our preprocessing"])

    rates = [run["worker"].frames_per_second for run in runs]
    return {
        "frames_per_second": median(rates),
        "frames_per_second_spread": [round(min(rates), 1), round(max(rates), 1)],
        "pipeline_efficiency": median([efficiency(run) for run in runs]),
        **{f"vs_{name}": median([times(name, run) for run in runs]) for name in LOOPS},
        **{f"vs_{name}_our_preprocessing": median([times_ours(name, run) for run in runs]) for name in LOOPS},
        **_versus_anomalib(runs),
        "exactly_once_share": median([_share(run) for run in runs]),
        "model_share": median([run["stages"]["model"] / run["worker"].cpu_ms for run in runs]),
        "worker_cpu_ms": median([run["worker"].cpu_ms for run in runs]),
        "stage_cpu_ms": {name: median([run["stages"][name] for run in runs]) for name in runs[0]["stages"]},
        "broker_cores": median([run["worker"].broker_cores for run in runs]),
        "foreign_cores": median([run["worker"].foreign_cores for run in runs]),
        "repetitions": len(runs),
    }


def _versus_anomalib(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    ratios = [run["worker"].frames_per_second / run["anomalib"] for run in runs if "anomalib" in run]
    return {"vs_anomalib": round(statistics.median(ratios), 4)} if ratios else {}


def versions() -> dict[str, str]:
    """Name what was measured with."""
    import kafka
    import onnxruntime

    return {
        "framewatch": __version__,
        "python": platform.python_version(),
        "onnxruntime": str(onnxruntime.__version__),
        "opencv": str(cv2.__version__),
        "kafka-python": str(kafka.__version__),
    }


def say_versions(told: dict[str, Any]) -> str:
    """Say what `versions` named in what a benchmark told."""
    return ", ".join(f"{name} {version}" for name, version in told["versions"].items())


def _share(run: dict[str, Any]) -> float:
    """Rate of exactly-once in that of at-least-once, both committing every 100 ms."""
    return float(run["exactly_once"].frames_per_second / run["at_least_once"].frames_per_second)


def page(told: dict[str, Any]) -> str:
    """Write the figures as a page."""
    rows = [
        [
            preset,
            "{:.0f} ({:.0f} to {:.0f})".format(one["frames_per_second"], *one["frames_per_second_spread"]),
            f"{one['pipeline_efficiency']:.2f}",
            *(f"{one[f'vs_{name}']:.2f}, {one[f'vs_{name}_our_preprocessing']:.2f}" for name in LOOPS),
            f"{one['vs_anomalib']:.1f}" if "vs_anomalib" in one else "",
            f"{one['exactly_once_share']:.2f}",
            f"{one['model_share']:.2f}",
            f"{one['worker_cpu_ms']:.2f}",
            *(f"{one['stage_cpu_ms'][name]:.2f}" for name in ("kafka", "decode", "motion", "model")),
            f"{one['broker_cores']:.2f}",
        ]
        for preset, one in told["presets"].items()
    ]
    columns = (
        "preset", "frames/s", "pipeline_efficiency",
        *(f"vs_{name}, with our preprocessing" for name in LOOPS), "vs_anomalib", "exactly-once / at-least-once",
        "model_share",
        "worker, ms", "Kafka, ms", "decoding, ms", "motion, ms", "model, ms", "broker, cores",
    )  # fmt: skip
    repetitions = next(iter(told["presets"].values()))["repetitions"]
    about = say_versions(told)
    return "\n".join(
        [
            "# The worker's speed",
            "",
            "Written by `make bench`; `deploy/bench.py` says what each figure is. JPEG frames of 640x360, four",
            f"cameras in the room, a real Kafka on the {told['cores']} cores, {told['precision']}; medians of",
            f"{repetitions} repetitions of {told['frames']} frames ({told['peer_frames']} by the other loops);",
            "milliseconds are CPU time a frame. Exactly-once and at-least-once both commit every",
            f"{_OFTEN_MS} ms and do half of the frames. {about}.",
            "",
            *table(columns, rows),
            "",
            "Frames of 1920x1080 to the model's input, CPU milliseconds on one thread:",
            "",
            *table(
                ("footage", "bytes a frame", "decoding chain", "whole grey picture, then shrunk", "times as fast"),
                (
                    [name, *(f"{one[key]:,}" for key in ("frame_bytes", "chain_ms", "whole_ms", "gain"))]
                    for name, one in told["decoding_1080p"].items()
                ),
            ),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run_command_line(app, "bench"))
