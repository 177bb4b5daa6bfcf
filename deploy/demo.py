"""The whole path on the bundled room footage: train, export, run a worker on a real Kafka, see the alerts.

``make demo`` runs it. Everything it writes is in ``demo-out``; nothing it starts outlives it. ``ARGS=--console`` ends
with the console on what was recorded, until Ctrl-C.
"""

import base64
import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from contract.alert import Alert, AnyAlert, Picture, read_alert
from contract.errors import FramewatchError
from deploy.broker import STANDARD_TOPICS, LocalBroker, create_topics, fetch_kafka
from deploy.worker_process import WorkerProcess, ended_at_exit, python_command
from worker.alerts_view import describe

OUT = Path("demo-out")
VIDEO = Path(__file__).parent / "footage" / "room.mp4"
VISITS = VIDEO.with_name("room_events.csv")
EMPTY_ROOM = "0:60,203:227,452:501"
FIRST_FRAME, LAST_FRAME = 703, 1393
CAMERA_ID = "room"
FRAMES_PER_SECOND = 100
FIT = ("--preset", "room", "--epochs", "16")
_START_TOLERANCE_FRAMES = 5
_READY_SECONDS = 60.0
_DRAIN_SECONDS = 120.0
_STOP_SECONDS = 20.0

_console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 120)


class DemoError(FramewatchError):
    """A stage of the demo failed."""


def main() -> int:
    """Run the demo; exit 0 when the three visits, and nothing else, were told as events."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return _run(shows_console="--console" in sys.argv[1:])
    except FramewatchError as error:
        _console.print(f"[red]demo failed:[/] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        _console.print("interrupted; everything that was started has been stopped")
        return 130


def _run(*, shows_console: bool) -> int:
    if OUT.exists():
        shutil.rmtree(OUT)
    OUT.mkdir()
    seconds: dict[str, float] = {}
    with _stage("fetch Kafka, first time only", seconds, "fetch_kafka"):
        fetch_kafka(lambda line: _console.print(f"  {line}", style="dim", highlight=False))
    with _stage(f"train on the empty room, frames {EMPTY_ROOM}", seconds, "fit"):
        _call("trainer", "fit", f"{VIDEO}#{EMPTY_ROOM}", "--out", str(OUT / "run"), *FIT)
    with _stage("export to ONNX and compare with PyTorch", seconds, "export"):
        _call("exporter", "build", str(OUT / "run"), "--out", str(OUT / "bundle"), "--name", "room")
    with ExitStack() as stack:
        with _stage("start a real Apache Kafka", seconds, "start_kafka"):
            broker = stack.enter_context(LocalBroker(log_path=OUT / "kafka.log"))
            create_topics(broker, STANDARD_TOPICS)
            _console.print(f"  {broker.bootstrap_servers}", style="dim", highlight=False)
        with _stage("start a worker", seconds, "start_worker"):
            worker = stack.enter_context(WorkerProcess(OUT, _worker_settings(broker.bootstrap_servers)))
            worker.wait_until_ready(_READY_SECONDS)
            provider = worker.read_label("framewatch_bundle_info", "provider")
        watcher = stack.enter_context(_AlertWatcher(broker.bootstrap_servers))
        with _stage(f"publish frames {FIRST_FRAME} to {LAST_FRAME} at {FRAMES_PER_SECOND}/s", seconds, "publish"):
            _call(
                "worker", "publish", f"{VIDEO}#{FIRST_FRAME}:{LAST_FRAME}", "--camera-id", CAMERA_ID,
                "--fps", str(FRAMES_PER_SECOND), "--bootstrap-servers", broker.bootstrap_servers, quiet=True,
            )  # fmt: skip
            worker.wait_until_finished(LAST_FRAME - FIRST_FRAME + 1, _DRAIN_SECONDS)
            told = round(worker.sum_metric("framewatch_alerts_total"))
        with _stage("stop the worker", seconds, "stop_worker"):
            worker.stop()
        alerts = watcher.finish(told)
        code = _judge([alert for alert in alerts if isinstance(alert, Alert)], seconds, provider)
        if shows_console:
            _show_console(broker.bootstrap_servers)
        else:
            _console.print("make demo ARGS=--console shows them in a browser.", highlight=False)
    return code


def _judge(alerts: Sequence[Alert], seconds: dict[str, float], provider: str) -> int:
    with _stage("evaluate against the labelled visits", seconds, "evaluate"):
        _call(
            # The first frame published is the last of an earlier visit, which is not one to be found.
            "trainer", "evaluate", str(OUT / "bundle"), f"{VIDEO}#{FIRST_FRAME + 1}:{LAST_FRAME}",
            "--labels", str(VISITS), "--out", str(OUT / "evaluation"), quiet=True,
        )  # fmt: skip
        shutil.copy(OUT / "evaluation" / "report.html", OUT / "report.html")
    unended = {alert.data.event_id for alert in alerts} - {alert.data.event_id for alert in alerts if _is_ended(alert)}
    if unended:
        raise DemoError(
            f"{len(unended)} events had not ended when the last frame was scored; see {OUT / 'alerts.jsonl'}"
        )
    ended = [alert for alert in alerts if _is_ended(alert)]
    for number, alert in enumerate(ended, 1):
        _draw_event(alert, OUT / f"event-{number}.png")
    return _conclude(ended, seconds, provider)


def _conclude(ended: Sequence[Alert], seconds: Mapping[str, float], provider: str) -> int:
    events: list[dict[str, Any]] = [
        {
            "camera_id": alert.subject,
            "first_frame": FIRST_FRAME + alert.data.frames.first_offset,
            "last_frame": FIRST_FRAME + alert.data.frames.last_offset,
            "peak_score": alert.data.peak_score,
        }
        for alert in ended
    ]
    summary = {"events": events, "seconds": dict(seconds), "provider": provider}
    (OUT / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    visits = [(first, last) for first, last in _visits() if first >= FIRST_FRAME]
    table = Table(title="Events", title_justify="left")
    for column in ("event", "frames", "visit", "start off by", "peak score", "threshold", "severity", "picture"):
        table.add_column(column, justify="left" if column == "picture" else "right")
    good = len(events) == len(visits)
    for number, (event, alert) in enumerate(zip(events, ended, strict=True), 1):
        visit = visits[number - 1] if number <= len(visits) else None
        off = event["first_frame"] - visit[0] if visit else None
        good = good and off is not None and abs(off) <= _START_TOLERANCE_FRAMES
        table.add_row(
            str(number), f"{event['first_frame']}-{event['last_frame']}", f"{visit[0]}-{visit[1]}" if visit else "none",
            f"{off:+d} frames" if off is not None else "-", f"{event['peak_score']:.2f}",
            f"{alert.data.threshold:.2f}", alert.data.severity, str(OUT / f"event-{number}.png"),
        )  # fmt: skip
    _console.print()
    _console.print(table)
    total = sum(seconds.values())
    _console.print(
        f"{total:.0f} s in all, model on {provider}. Open {OUT / 'report.html'}; the alerts as they stood on the topic "
        f"are in {OUT / 'alerts.jsonl'}.",
        highlight=False,
    )
    if not good:
        _console.print(f"[red]expected one event for each of the visits {visits}[/]", highlight=False)
    return 0 if good else 1


def _show_console(servers: str) -> None:
    """Serve the console on what was recorded, until Ctrl-C."""
    files = "--database", str(OUT / "console.sqlite"), "--bundle", str(OUT / "bundle")
    command = python_command("worker", "console", "--bootstrap-servers", servers, *files)
    with ended_at_exit(subprocess.Popen(command)) as child:
        _console.print("Open http://127.0.0.1:8460/ in a browser; Ctrl-C ends it and Kafka.", highlight=False)
        try:
            code = child.wait()
        except KeyboardInterrupt:
            return
    raise DemoError(f"the console ended with {code}")


def _visits() -> list[tuple[int, int]]:
    with VISITS.open(newline="", encoding="utf-8") as file:
        return [(int(row["first_frame"]), int(row["last_frame"])) for row in csv.DictReader(file)]


@contextmanager
def _stage(title: str, seconds: dict[str, float], name: str) -> Iterator[None]:
    _console.print(f"[bold]{title}[/]", highlight=False)
    began = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - began, 1)
    _console.print(f"  done in {seconds[name]} s", style="dim", highlight=False)


def _call(program: str, *arguments: str, quiet: bool = False) -> None:
    """Run one of the project's commands, showing its progress; its standard output is not needed."""
    shown = subprocess.PIPE if quiet else None
    with ended_at_exit(
        subprocess.Popen(python_command(program, *arguments), stdout=subprocess.DEVNULL, stderr=shown)
    ) as child:
        _, said = child.communicate()
    if child.returncode:
        raise DemoError(f"{program} {arguments[0]} ended with {child.returncode} {(said or b'').decode().strip()}")


def _worker_settings(servers: str) -> dict[str, Any]:
    kafka = {"bootstrap_servers": servers, "auto_offset_reset": "earliest", "scores_topic": "scores"}
    return {"bundle": str(OUT / "bundle"), "kafka": kafka}


def _is_ended(alert: Alert) -> bool:
    return alert.type.endswith("ended.v1")


class _AlertWatcher:
    """Follows the alerts topic, prints each alert as it comes and keeps it as it stood."""

    def __init__(self, servers: str) -> None:
        self._child = subprocess.Popen(
            python_command("worker", "alerts", "--from-beginning", "--json", "--bootstrap-servers", servers),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._alerts: list[AnyAlert] = []
        self._thread = Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "_AlertWatcher":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with ended_at_exit(self._child):
            pass
        self._thread.join(_STOP_SECONDS)

    def finish(self, count: int) -> list[AnyAlert]:
        """Wait until so many alerts have come, and return them in order."""
        ends_at = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < ends_at and len(self._alerts) < count:
            time.sleep(0.1)
        if len(self._alerts) != count:
            raise DemoError(f"the worker told {count} alerts, {len(self._alerts)} were seen on the topic")
        return list(self._alerts)

    def _follow(self) -> None:
        pipe: IO[bytes] | None = self._child.stdout
        assert pipe is not None  # noqa: S101
        with (OUT / "alerts.jsonl").open("wb") as file:
            for line in pipe:
                file.write(line)
                file.flush()
                alert = read_alert(line)
                self._alerts.append(alert)
                if isinstance(alert, Alert):
                    _say_alert(alert)
                else:
                    _console.print(f"  [yellow]alert[/] {describe(alert)}", highlight=False)


def _say_alert(alert: Alert) -> None:
    data = alert.data
    state = alert.type.split(".")[2]
    frame = {"started": data.frames.first_offset, "updated": data.frames.peak_offset, "ended": data.frames.last_offset}
    colour = {"started": "red", "updated": "yellow", "ended": "green"}[state]
    _console.print(
        f"  [{colour}]alert[/] {alert.subject} {state} at frame {FIRST_FRAME + frame[state]}: score "
        f"{data.peak_score:.2f} (threshold {data.threshold:.2f}), {data.severity}, "
        f"{data.anomalous_area_percent:.0f}% of the picture",
        highlight=False,
    )


def _draw_event(alert: Alert, path: Path) -> None:
    """Draw the snapshot of an event's peak beside its heat map, laid over the snapshot, with the anomalous boxes."""
    data = alert.data
    if data.snapshot is None or data.heat_map is None:
        return
    snapshot, heat = _pixels(data.snapshot), _pixels(data.heat_map)
    height, width = snapshot.shape[:2]
    heat = np.asarray(cv2.resize(heat, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    weight = heat.max(axis=2, keepdims=True) / 255 * 0.8
    over = np.asarray(snapshot * (1 - weight) + heat * weight, np.uint8)
    for box in data.boxes[:1]:
        corner = round(box.x * width), round(box.y * height)
        other = round((box.x + box.width) * width), round((box.y + box.height) * height)
        cv2.rectangle(snapshot, corner, other, (0, 94, 213), 2, cv2.LINE_AA)
    gap = np.full((height, 8, 3), 255, np.uint8)
    cv2.imwrite(str(path), np.hstack([snapshot, gap, over]))


def _pixels(picture: Picture) -> npt.NDArray[np.uint8]:
    data = np.frombuffer(base64.b64decode(picture.base64), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _interrupt(_number: int, _frame: Any) -> None:  # noqa: ANN401
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
