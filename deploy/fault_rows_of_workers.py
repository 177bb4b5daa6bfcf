"""Faults of workers: killed, suspended, scaled, slow, failing; rows of `deploy.faults`."""

import shutil
import signal
import time
from dataclasses import replace
from typing import Any

import numpy as np

from deploy.fault_row import Row, Stage, checked
from deploy.fault_scene import SESSION_SECONDS, STOP_SECONDS, Fleet, Scene
from deploy.worker_process import open_descriptors, resident_bytes


def killed(stage: Stage, *, exactly_once: bool = False) -> Row:
    """Kill a random worker, again and again."""
    scene, times = stage.scene(exactly_once=exactly_once), stage.of(20, 2)
    chance = np.random.default_rng(0)
    with Fleet(scene, static=exactly_once) as fleet:
        fleet.start(2)
        frames = stage.of(10_000, 800) // times
        for _ in range(times):
            scene.send(frames)
            time.sleep(chance.uniform(0.2, 2.0))
            fleet.signal(int(chance.choice(fleet.running)), signal.SIGKILL)
            fleet.tend()
        recovered = fleet.wait_progress() if scene.committed() != scene.ends() else 0.0
        fleet.wait_done()
    return checked(scene, "kill -9 of a random worker" + _mode(exactly_once=exactly_once), times, recovered)


def killed_exactly_once(stage: Stage) -> Row:
    """The same in exactly-once."""
    return killed(stage, exactly_once=True)


def suspended(stage: Stage, *, exactly_once: bool = False) -> Row:
    """Suspend a worker past its session."""
    scene, times = stage.scene(exactly_once=exactly_once), stage.of(10, 1)
    with Fleet(scene) as fleet:
        fleet.start(2)
        fleet.wait_until(lambda: '"running"' in fleet.log(0) and '"running"' in fleet.log(1))
        for number in range(times):
            scene.send(stage.of(4000, 600) // times)
            fleet.signal(number % 2, signal.SIGSTOP)
            time.sleep(SESSION_SECONDS + 3)
            scene.send(40)
            fleet.signal(number % 2, signal.SIGCONT)
        recovered = fleet.wait_done()
    return checked(scene, "worker suspended past its session" + _mode(exactly_once=exactly_once), times, recovered)


def suspended_exactly_once(stage: Stage) -> Row:
    """The same in exactly-once."""
    return suspended(stage, exactly_once=True)


def scaled(stage: Stage) -> Row:
    """Have one worker, four, and one again, in exactly-once."""
    scene, times = stage.scene(exactly_once=True), stage.of(10, 1)
    with Fleet(scene) as fleet:
        for _ in range(times):
            fleet.start(1)
            scene.send(stage.of(3000, 400) // times)
            fleet.start(4)
            time.sleep(stage.of(6, 4))
            scene.send(stage.of(3000, 400) // times)
            fleet.start(1)
        recovered = fleet.wait_done()
    return checked(scene, "1 to 4 to 1 workers" + _mode(exactly_once=True), times, recovered)


def same_name(stage: Stage) -> Row:
    """Two workers under one static name."""
    scene = stage.scene(kafka={"group_instance_id": "twin"})
    with Fleet(scene) as fleet:
        fleet.start(1)
        scene.send(stage.of(2000, 400))
        fleet.wait_progress()
        second = fleet.spawn(1)
        try:
            first = fleet.child()
            fleet.wait_until(lambda: first.poll() is not None or second.poll() is not None, 60, tend=False)
            ended = [child.poll() for child in (first, second)]
            scene.send(200)
            recovered = fleet.wait_until(lambda: scene.committed() == scene.ends(), tend=False)
        finally:
            second.kill()
            second.wait()
    good = sorted(ended, key=str) == [1, None]
    return checked(scene, "two workers under one static name", 1, recovered, holds=good, seen=f"exits {ended}")


def long_batch(stage: Stage) -> Row:
    """A batch of three sessions, under the poll interval."""
    return _slow(stage, 3 * SESSION_SECONDS, {}, "batch of three sessions", lost=False)


def too_long_batch(stage: Stage) -> Row:
    """A batch longer than the poll interval."""
    return _slow(stage, 16.0, {"max_poll_interval_ms": 7000}, "batch over the poll interval", lost=True)


def _slow(stage: Stage, seconds: float, kafka: dict[str, Any], fault: str, *, lost: bool) -> Row:
    scene = stage.scene(kafka=kafka)
    flag = stage.folder / f"{scene.name}-slow"
    with Fleet(scene, sabotage={"slow": str(flag), "seconds": seconds}) as fleet:
        fleet.start(1)
        scene.send(200)
        fleet.wait_done()
        flag.touch()
        scene.send(stage.of(2000, 400))
        fleet.wait_until(lambda: not flag.exists())
        recovered = fleet.wait_done()
        moved = '"partitions lost"' in fleet.log()
    return checked(
        scene, fault, 1, recovered, holds=moved == lost, seen="partitions moved" if moved else "no rebalance"
    )


def inference_fails(stage: Stage) -> Row:
    """Inference that raises."""
    scene = stage.scene()
    flag = stage.folder / f"{scene.name}-fail"
    with Fleet(scene, sabotage={"fail": str(flag)}) as fleet:
        fleet.start(1)
        scene.send(200)
        fleet.wait_done()
        flag.touch()
        scene.send(stage.of(1000, 300))
        child = fleet.child()
        fleet.wait_until(lambda: child.poll() is not None, 60, tend=False)
        tries = fleet.log().count("more tries") + 1
        flag.unlink()
        recovered = fleet.wait_done()
    return checked(
        scene, "inference fails", 1, recovered, holds=child.poll() == 1 and tries <= 3,
        seen=f"{tries} tries, exit {child.poll()}",
    )  # fmt: skip


def stopped_under_load(stage: Stage) -> Row:
    """SIGTERM in the middle of a backlog."""
    scene = stage.scene()
    with Fleet(scene) as fleet:
        scene.send(stage.of(6000, 1000))
        fleet.start(1)
        fleet.wait_progress()
        fleet.signal(0, signal.SIGTERM)
        began = time.monotonic()
        code = fleet.child().wait(STOP_SECONDS + 10)
        took = time.monotonic() - began
        done = sum(1 for _ in scene.records("scores"))
        ahead = done - sum(scene.committed().values())
        fleet.tend()
        recovered = fleet.wait_done()
    return checked(
        scene, "SIGTERM under load", 1, recovered, holds=code == 0 and took <= STOP_SECONDS and ahead == 0,
        seen=f"exit {code} after {took:.1f} s, {ahead} finished and not committed",
    )  # fmt: skip


def soaked(stage: Stage) -> Row:
    """A steady rate for a while; memory and descriptors after its first third are those to keep to."""
    scene = stage.scene()
    with Fleet(scene) as fleet:
        fleet.start(1)
        scene.send(stage.of(2000, 600))
        fleet.wait_done()
        pid = fleet.child().pid
        seconds = stage.of(120, 10)
        # Until every thread has had its largest batch and every camera its first event, memory rises: 30 MiB in 45 s.
        _keep_busy(scene, fleet, seconds / 3)
        before, files = resident_bytes(pid), open_descriptors(pid)
        _keep_busy(scene, fleet, seconds * 2 / 3)
        grown, opened = (resident_bytes(pid) - before) / 2**20, open_descriptors(pid) - files
    return checked(
        scene,
        "soak",
        1,
        None,
        holds=grown <= 16 and opened <= 4,
        seen=f"{grown:+.1f} MiB, {opened:+d} descriptors",
    )


def _keep_busy(scene: Scene, fleet: Fleet, seconds: float) -> None:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        scene.send(100)
        fleet.wait_done()


def clock_moved(stage: Stage) -> Row:
    """Move the wall clock by an hour."""
    scene = stage.scene()
    flag = stage.folder / f"{scene.name}-clock"
    with Fleet(scene, sabotage={"clock": str(flag), "seconds": 3600}) as fleet:
        fleet.start(1)
        scene.send(200)
        fleet.wait_done()
        flag.touch()
        scene.send(stage.of(1000, 300))
        recovered = fleet.wait_done()
    return checked(scene, "wall clock moved by an hour", 1, recovered)


def model_replaced(stage: Stage) -> Row:
    """Overwrite the bundle under a running worker."""
    copy = stage.folder / "replaced"
    shutil.copytree(stage.bundle, copy, dirs_exist_ok=True)
    scene = stage.scene()
    scene = replace(scene, bundle=copy, name=scene.name)
    with Fleet(scene) as fleet:
        fleet.start(1)
        scene.send(200)
        fleet.wait_done()
        (copy / "detector.onnx").write_bytes(b"broken")
        scene.send(stage.of(1000, 300))
        recovered = fleet.wait_done()
        refused = fleet.spawn(1).wait(60)
    alive = fleet.ends == 0
    restored = replace(scene, bundle=stage.bundle, name=scene.name)
    return checked(
        restored, "bundle overwritten under a running worker", 1, recovered, holds=alive and refused == 2,
        seen=f"the next worker refuses it, exit {refused}",
    )  # fmt: skip


def _mode(*, exactly_once: bool) -> str:
    return ", exactly-once" if exactly_once else ", at-least-once"
