"""Measures what a worker asks of an operator's patience and memory, on a real Kafka.

``make bench-live`` runs it, with the footage and the models of ``make bench``, and writes docs/benchmarks/live.md.

workers  frames/s of 1, 2 and 4 of them in one group on the backlog, beside what `deploy.sizing` simulates
start    from the start of the process to its first score, its files in the cache already; median of five
memory   resident, the highest while the worker does a backlog, and the highest in the backlog's first tenth
delay    from a record's own time to that of its score, at half the rate at which the backlog was done; beside the
         batch's deadline and twice the time that a batch's decoding, motion and model take alone
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from kafka import KafkaConsumer, TopicPartition
from rich.console import Console

from contract.command_line import run_command_line
from contract.errors import FramewatchError
from deploy.bench import (
    OUT,
    fill_topic,
    fitted_bundle,
    frame_records,
    room_frames,
    say_versions,
    stage_costs,
    versions,
)
from deploy.broker import STANDARD_TOPICS, LocalBroker, create_topics
from deploy.measured import table
from deploy.sizing import Costs, simulate
from deploy.worker_process import WorkerProcess, cpu_seconds, peak_resident_bytes
from worker.cores import cores_given
from worker.delivery import Delivery
from worker.settings import BatchSettings, KafkaSettings

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "live.md"
QUANTILES: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
_STARTS: Final = 5
_SHORT_BACKLOG, _SHORT_SECONDS = 3000, 10.0
_READY_SECONDS: Final = 60.0
_LONGEST_SECONDS: Final = 3600.0
_WORKERS: Final = (1, 2, 4)
_GROUP_FRAMES: Final = 12_000
_LIVE_TOPICS: Final = ("live", "live-scores")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)


@app.command()
def bench_live(
    preset: Annotated[str, typer.Option(help="Preset to measure.")] = "balanced",
    backlog: Annotated[int, typer.Option(min=200, help="Frames that wait for the worker.")] = 100_000,
    seconds: Annotated[float, typer.Option(min=5, help="Time to publish at half the rate.")] = 600.0,
    *,
    short: Annotated[bool, typer.Option("--short", help="Few frames and seconds; the page is left as it is.")] = False,
) -> None:
    """Measure, print one JSON object, and write the page."""
    if short:
        backlog, seconds = _SHORT_BACKLOG, _SHORT_SECONDS
    OUT.mkdir(exist_ok=True)
    encoded = room_frames()
    bundle = fitted_bundle(preset, "fp32")
    with LocalBroker(log_path=OUT / "kafka.log") as broker:
        servers = broker.bootstrap_servers
        topics = dict(zip(_LIVE_TOPICS, (STANDARD_TOPICS["frames"], STANDARD_TOPICS["scores"]), strict=True))
        create_topics(broker, {**STANDARD_TOPICS, **topics})
        fill_topic(servers, encoded, backlog)
        told: dict[str, Any] = {
            "versions": versions(),
            "cores": cores_given(),
            "preset": preset,
            "backlog": backlog,
            "backlog_bytes": sum(len(record.value or b"") for record in frame_records(encoded, backlog)),
            "start_seconds": [_start_seconds(bundle, servers, number) for number in range(_STARTS + 1)][1:],
            **_backlog_done(bundle, broker, backlog),
        }
        stages = stage_costs(bundle, encoded, servers, "stages", backlog)
        costs = Costs.measured(stages, told["worker_cpu_ms"], told["broker_cpu_ms"], told["backlog_bytes"] / backlog)
        rate = told["frames_per_second"] / 2
        told |= {
            "rate": rate,
            "seconds": seconds,
            "workers": {
                str(count): {
                    "measured": told["frames_per_second"]
                    if count == 1
                    else group_rate(bundle, servers, f"group-{count}", count, min(backlog, _GROUP_FRAMES)),
                    "simulated": simulate(costs, told["cores"], count).frames_per_second,
                }
                for count in _WORKERS
            },
            "bound_ms": bound_ms(rate, costs.prepare + costs.model, told["cores"]),
            "delay_ms": {
                **_live_delays(bundle, servers, encoded, rate, seconds),
                "simulated": quantiles(simulate(costs, told["cores"], rate=rate).delays_ms),
            },
        }
    if not short:
        PAGE.write_text(page(told), encoding="utf-8")
    typer.echo(json.dumps(told, indent=2))


def _settings(bundle: Path, servers: str, group: str, frames_topic: str, scores_topic: str) -> dict[str, Any]:
    kafka = {
        "bootstrap_servers": servers, "group_id": group, "auto_offset_reset": "earliest",
        "frames_topic": frames_topic, "scores_topic": scores_topic,
    }  # fmt: skip
    return {"bundle": str(bundle), "log_level": "INFO", "kafka": kafka}


def _start_seconds(bundle: Path, servers: str, number: int) -> float:
    consumer = KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
    partition = TopicPartition("scores", 0)
    consumer.assign([partition])
    consumer.seek_to_end(partition)
    consumer.position(partition)
    began = time.time()
    with WorkerProcess(OUT, _settings(bundle, servers, f"start-{number}", "frames", "scores")):
        ends_at = time.monotonic() + _READY_SECONDS
        scores: list[Any] = []
        while not scores and time.monotonic() < ends_at:
            scores = [record for part in consumer.poll(200).values() for record in part]
    consumer.close()
    if not scores:
        raise FramewatchError(f"the worker published no score within {_READY_SECONDS:g} s; see {OUT}/worker.log")
    taken = scores[0].timestamp / 1000 - began
    _console.print(f"start {number}: {taken:.2f} s", highlight=False)
    return float(taken)


def _backlog_done(bundle: Path, broker: LocalBroker, backlog: int) -> dict[str, float]:
    settings = _settings(bundle, broker.bootstrap_servers, "backlog", "frames", "scores")
    with WorkerProcess(OUT, settings) as worker:
        worker.wait_until_ready(_READY_SECONDS)
        worker.wait_until_finished(backlog // 10, _LONGEST_SECONDS)
        began, first, early = time.monotonic(), worker.finished_frames(), peak_resident_bytes(worker.pid)
        used = [cpu_seconds(pid) for pid in (worker.pid, broker.pid)]
        worker.wait_until_finished(backlog, _LONGEST_SECONDS)
        done, seconds = backlog - first, time.monotonic() - began
        worker_ms, broker_ms = (
            (cpu_seconds(pid) - before) / done * 1000
            for pid, before in zip((worker.pid, broker.pid), used, strict=True)
        )
        late = peak_resident_bytes(worker.pid)
        worker.stop()
    _console.print(f"backlog: {done / seconds:.0f} frames/s, {late / 2**20:.0f} MiB", highlight=False)
    return {
        "frames_per_second": done / seconds,
        "worker_cpu_ms": worker_ms,
        "broker_cpu_ms": broker_ms,
        "resident_bytes_early": early,
        "resident_bytes": late,
    }


def group_rate(bundle: Path, servers: str, group: str, count: int, frames: int) -> float:
    """Rate of several workers in one group on so many frames of the topic, once all have partitions, frames/s."""
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                WorkerProcess(OUT, _settings(bundle, servers, group, "frames", "scores"), f"worker-{number}")
            )
            for number in range(count)
        ]
        for worker in running:
            worker.wait_until_ready(_READY_SECONDS)

        def wait_until_finished(least: int) -> int:
            def seen() -> int | None:
                done = sum(worker.finished_frames() for worker in running)
                return done if done >= least else None

            return running[0].wait_until(seen, _LONGEST_SECONDS, f"done with {least} frames, the others' included")

        first, began = wait_until_finished(frames // 5), time.monotonic()
        last = wait_until_finished(frames * 9 // 10)
        rate = (last - first) / (time.monotonic() - began)
    _console.print(f"{count} workers: {rate:.0f} frames/s", highlight=False)
    return rate


def bound_ms(rate: float, frame_ms: float, cores: int, batch: BatchSettings | None = None) -> float:
    """Delay that is allowed: the batch's deadline and twice the time that its frames take.

    Args:
        rate: Frames/s that come; a batch holds those that come within its deadline.
        frame_ms: CPU time of a frame, its parts measured alone, milliseconds.
        cores: That share the work.
        batch: The worker's settings; the defaults where None.
    """
    batch = batch or BatchSettings()
    frames = min(batch.max_frames, math.ceil(rate * batch.deadline_ms / 1000))
    return batch.deadline_ms + 2 * frames * frame_ms / cores


def _live_delays(
    bundle: Path, servers: str, encoded: Sequence[bytes], rate: float, seconds: float
) -> dict[str, dict[str, float]]:
    live, scores = _LIVE_TOPICS
    with WorkerProcess(OUT, _settings(bundle, servers, "live", live, scores)) as worker:
        worker.wait_until_ready(_READY_SECONDS)
        sent = _publish_evenly(servers, encoded, rate, seconds)
        worker.wait_until_finished(sent, _READY_SECONDS)
        worker.stop()
    consumer = KafkaConsumer(
        scores, bootstrap_servers=servers, auto_offset_reset="earliest", enable_auto_commit=False, group_id=None
    )
    delays: list[float] = []
    while len(delays) < sent:
        polled = consumer.poll(5000)
        if not polled:
            raise FramewatchError(f"{len(delays)} of {sent} frames came to a score; see {OUT}/worker.log")
        for part in polled.values():
            delays += [record.timestamp - json.loads(record.value)["captured_at_ms"] for record in part]
    consumer.close()
    half = len(delays) // 2
    return {"all": quantiles(delays), "first half": quantiles(delays[:half]), "second half": quantiles(delays[half:])}


def _publish_evenly(servers: str, encoded: Sequence[bytes], rate: float, seconds: float) -> int:
    """Publish frames as they come due, and say how many."""
    count = round(rate * seconds)
    _console.print(f"{count} frames at {rate:.0f} a second", highlight=False)
    delivery = Delivery(KafkaSettings(bootstrap_servers=servers))
    began = time.monotonic()
    for number, record in enumerate(frame_records(encoded, count, _LIVE_TOPICS[0])):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        delivery.send([record])
    delivery.close(10)
    return count


def quantiles(delays_ms: Sequence[float]) -> dict[str, float]:
    """The delay that so large a share of the frames does not exceed, milliseconds."""
    return {name: float(np.quantile(delays_ms, share)) for name, share in QUANTILES.items()}


def page(told: dict[str, Any]) -> str:
    """Write the figures as a page."""
    starts, mebibyte = told["start_seconds"], 2**20
    figures = [
        ["start to first score, s", f"{statistics.median(starts):.1f} ({min(starts):.1f} to {max(starts):.1f})"],
        ["frames/s of the backlog", f"{told['frames_per_second']:.0f}"],
        ["resident at most, MiB", f"{told['resident_bytes'] / mebibyte:.0f}"],
        ["the same in the first tenth", f"{told['resident_bytes_early'] / mebibyte:.0f}"],
    ]
    workers = [[count, f"{one['measured']:.0f}", f"{one['simulated']:.0f}"] for count, one in told["workers"].items()]
    delays = [
        [name, *(f"{one[quantile]:.0f}" for quantile in QUANTILES), f"{told['bound_ms']:.0f}"]
        for name, one in told["delay_ms"].items()
    ]
    return "\n".join(
        [
            "# The worker at work",
            "",
            "Written by `make bench-live`; `deploy/bench_live.py` says what each figure is. Preset",
            f"`{told['preset']}`, JPEG frames of 640x360, four cameras in the room, a real Kafka on the",
            f"{told['cores']} cores. {say_versions(told)}.",
            "",
            f"A backlog of {told['backlog']:,} frames, {told['backlog_bytes'] / 2**30:.2g} GiB:",
            "",
            *table(("", "measured"), figures),
            "",
            *table(("workers in one group", "frames/s", "simulated"), workers),
            "",
            f"Delay at {told['rate']:.0f} frames/s for {told['seconds']:.0f} s, milliseconds:",
            "",
            *table(("frames", *QUANTILES, "deadline and two bare batches"), delays),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run_command_line(app, "bench-live"))
