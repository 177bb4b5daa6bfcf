"""How many workers, cores and partitions a number of cameras needs, from what a frame costs.

``python -m deploy.sizing --costs FILE`` prints the table, FILE being what ``make bench`` printed on such a machine as
is meant. `simulate` runs workers as they are built (`worker.loop`, `worker.pipeline`) in simulated time: batches by
size and deadline, three steps that overlap with one batch between two of them, a crew of as many threads as there are
cores. A thread at work takes a core, and Python's own work its interpreter; nothing else is lost. ``make bench-live``
sets its figures beside measured ones.
"""

import json
import math
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Self

import numpy as np
import simpy
import typer

from contract.command_line import run_command_line
from contract.errors import ConfigError
from deploy.measured import table
from worker.parts import CLIPS_AT_ONCE
from worker.settings import BatchSettings

CAMERAS: Final = (10, 30, 100, 300, 1_000, 3_000, 10_000)
_ACKNOWLEDGED_MS: Final = 3.0
_SIMULATED_SECONDS: Final = 20.0
_WARM_SECONDS: Final = 2.0
_LOAD: Final = 0.7
_PARTITIONS_A_WORKER: Final = 2
_SECONDS_A_DAY: Final = 86_400

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Steps = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Costs:
    """CPU time of one frame, milliseconds, and its size.

    Attributes:
        kafka: Fetching.
        prepare: Decoding and motion, which share the crew.
        model: The detector's graph.
        other: The rest of the worker's, publishing included.
        broker: The broker's, where it shares the machine.
        frame_bytes: Of its record.
    """

    kafka: float
    prepare: float
    model: float
    other: float
    broker: float
    frame_bytes: float

    @classmethod
    def measured(cls, stages_ms: Mapping[str, float], worker_ms: float, broker_ms: float, frame_bytes: float) -> Self:
        """Take what `deploy.bench.stage_costs` measured; what a worker used beyond it is ``other``."""
        parts = stages_ms["kafka"], stages_ms["decode"] + stages_ms["motion"], stages_ms["model"]
        return cls(*parts, max(0.0, worker_ms - sum(parts)), broker_ms, frame_bytes)

    @classmethod
    def of_bench(cls, told: dict[str, Any], preset: str) -> Self:
        """Read what ``make bench`` printed.

        Raises:
            ConfigError: It holds no such preset, or is no such file.
        """
        try:
            one = told["presets"][preset]
            broker_ms = one["broker_cores"] / one["frames_per_second"] * 1000
            return cls.measured(one["stage_cpu_ms"], one["worker_cpu_ms"], broker_ms, told["frame_bytes"])
        except (KeyError, TypeError) as error:
            raise ConfigError(f"--costs holds no {error} of preset {preset}; give what `make bench` printed") from error

    @property
    def worker(self) -> float:
        """The worker's altogether."""
        return self.kafka + self.prepare + self.model + self.other


@dataclass(frozen=True)
class Simulated:
    """What simulated workers did.

    Attributes:
        frames_per_second: All of them together.
        delays_ms: Of each frame, from its coming to the broker's acknowledgement of its score.
    """

    frames_per_second: float
    delays_ms: Sequence[float]


class _Worker:
    """One worker of a simulation.

    Args:
        env: The simulation.
        cores: Of the machine.
        threads: Of the crew.
        costs: Of a frame.
        rate: Frames/s that come, evenly; None for a backlog without end.
        batch: Its settings.
        phase: When the first frame comes, as a share of the time between two.
    """

    def __init__(
        self, env: simpy.Environment, cores: simpy.Resource, threads: int, costs: Costs, rate: float | None,
        batch: BatchSettings, phase: float,
    ) -> None:  # fmt: skip
        self._env = env
        self._cores = cores
        self._crew = simpy.Resource(env, threads)
        self._interpreter = simpy.Resource(env, 1)
        self._costs = costs
        self._batch = batch
        self._incoming: list[float] = []
        self.delays_ms: list[tuple[float, float]] = []
        steps = (self._prepare, self._score, self._publish)
        queues = [simpy.Store(env, 1) for _ in steps]
        if rate is not None:
            env.process(self._arrive(1000 / rate, phase))
        env.process(self._fetch(queues[0], endless=rate is None))
        for number, step in enumerate(steps):
            env.process(self._work(step, queues[number], queues[number + 1] if number + 1 < len(queues) else None))

    def _arrive(self, apart_ms: float, phase: float) -> Steps:
        yield self._env.timeout(apart_ms * phase)
        while True:
            self._incoming.append(self._env.now)
            yield self._env.timeout(apart_ms)

    def _fetch(self, queue: simpy.Store, *, endless: bool) -> Steps:
        most = self._batch.max_frames
        gathered = self._env.timeout(0)
        while True:
            came = [self._env.now] * most
            if not endless:
                if len(self._incoming) < most:
                    yield gathered
                came, self._incoming = self._incoming[:most], self._incoming[most:]
                # The next fetch is sent when this one is answered, whatever becomes of its frames.
                gathered = self._env.timeout(self._batch.deadline_ms)
                if not came:
                    continue
            yield from self._run(self._costs.broker * len(came))
            yield from self._held(self._interpreter, self._costs.kafka * len(came))
            yield queue.put(came)

    def _work(self, step: Any, queue: simpy.Store, following: simpy.Store | None) -> Steps:  # noqa: ANN401
        while True:
            batch = yield queue.get()
            yield from step(batch)
            if following is not None:
                yield following.put(batch)

    def _prepare(self, batch: Sequence[float]) -> Steps:
        yield from self._share(len(batch), self._costs.prepare, 1)

    def _score(self, batch: Sequence[float]) -> Steps:
        yield from self._share(len(batch), self._costs.model, CLIPS_AT_ONCE)

    def _publish(self, batch: Sequence[float]) -> Steps:
        yield from self._held(self._interpreter, self._costs.other * len(batch))
        yield self._env.timeout(_ACKNOWLEDGED_MS)
        self.delays_ms += [(self._env.now, self._env.now - came) for came in batch]

    def _share(self, frames: int, frame_ms: float, at_once: int) -> Steps:
        """Let the crew take so many frames at a time."""
        sizes = [min(at_once, frames - start) for start in range(0, frames, at_once)]
        yield self._env.all_of([self._env.process(self._held(self._crew, size * frame_ms)) for size in sizes])

    def _held(self, what: simpy.Resource, milliseconds: float) -> Steps:
        with what.request() as turn:
            yield turn
            yield from self._run(milliseconds)

    def _run(self, milliseconds: float) -> Steps:
        with self._cores.request() as core:
            yield core
            yield self._env.timeout(milliseconds)


def simulate(
    costs: Costs,
    cores: int,
    workers: int = 1,
    rate: float | None = None,
    batch: BatchSettings | None = None,
    seconds: float = _SIMULATED_SECONDS,
) -> Simulated:
    """Run workers of one machine in simulated time.

    Args:
        costs: Of a frame.
        cores: Of the machine; each worker's crew has as many threads.
        workers: Processes in one group, the frames shared evenly among them.
        rate: Frames/s that come to all of them; None for a backlog without end.
        batch: Their settings; the defaults where None.
        seconds: Simulated time, the first two left out.
    """
    env = simpy.Environment()
    machine = simpy.Resource(env, cores)
    share = None if rate is None else rate / workers
    running = [
        _Worker(env, machine, cores, costs, share, batch or BatchSettings(), number / workers)
        for number in range(workers)
    ]
    env.run(seconds * 1000)
    warm_ms = _WARM_SECONDS * 1000
    delays = [delay for worker in running for at, delay in worker.delays_ms if at >= warm_ms]
    return Simulated(len(delays) / (seconds - _WARM_SECONDS), delays)


@dataclass(frozen=True)
class Plan:
    """What a number of cameras needs.

    Attributes:
        cameras: How many.
        frames_per_second: All together.
        workers: Processes, one a machine.
        partitions: Of the frames topic, at least.
        megabytes_per_second: Into the brokers, and out of them again.
        terabytes_per_day: Of frames on the topic, a copy; times days of retention and replicas it is the brokers' disk.
        p99_ms: Delay that one frame of a hundred exceeds, at that load.
    """

    cameras: int
    frames_per_second: float
    workers: int
    partitions: int
    megabytes_per_second: float
    terabytes_per_day: float
    p99_ms: float


def plan(cameras: int, rate: float, costs: Costs, cores: int) -> Plan:
    """Size workers for cameras, the brokers on other machines.

    Args:
        cameras: How many.
        rate: Frames/s of each.
        costs: Of a frame.
        cores: Of a worker's machine; it is given 70% of the load that it can bear.
    """
    apart = replace(costs, broker=0.0)
    frames = cameras * rate
    most = simulate(apart, cores).frames_per_second
    workers = math.ceil(frames / (_LOAD * most))
    delays = simulate(apart, cores, rate=frames / workers).delays_ms
    return Plan(
        cameras,
        frames,
        workers,
        _PARTITIONS_A_WORKER * workers,
        frames * costs.frame_bytes / 1e6,
        frames * costs.frame_bytes * _SECONDS_A_DAY / 1e12,
        float(np.quantile(delays, 0.99)) if delays else math.nan,
    )


@app.command()
def sizing(
    costs: Annotated[Path, typer.Option(help="What `make bench` printed.")],
    preset: Annotated[str, typer.Option(help="Of it.")] = "balanced",
    rate: Annotated[float, typer.Option(min=0.1, help="Frames/s of a camera.")] = 5.0,
    cores: Annotated[int, typer.Option(min=1, help="Of a worker's machine.")] = 8,
) -> None:
    """Print what 10 to 10,000 cameras need."""
    try:
        told = json.loads(costs.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--costs {costs} cannot be read: {error}") from error
    a_frame = Costs.of_bench(told, preset)
    typer.echo(f"`{preset}`, {rate:g} frames/s a camera, {cores} cores a worker, {a_frame.worker:.2f} ms a frame\n")
    typer.echo("\n".join(_rows([plan(cameras, rate, a_frame, cores) for cameras in CAMERAS])))


def _rows(plans: Sequence[Plan]) -> Iterator[str]:
    yield from table(
        ("cameras", "frames/s", "workers", "partitions", "MB/s in", "TB a day", "p99 delay, ms"),
        (
            [
                f"{one.cameras:,}",
                f"{one.frames_per_second:,.0f}",
                f"{one.workers:,}",
                f"{one.partitions:,}",
                f"{one.megabytes_per_second:,.1f}",
                f"{one.terabytes_per_day:,.2f}",
                f"{one.p99_ms:.0f}",
            ]
            for one in plans
        ),
    )


if __name__ == "__main__":
    sys.exit(run_command_line(app, "sizing"))
