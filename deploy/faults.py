"""The fault matrix: what kills such workers, done to real ones on a real Kafka, and what must hold.

``make faults`` runs every row and prints it; docs/benchmarks/faults.md keeps the table. ``--rows 1,6`` runs some, and
``--short`` a short form of each, which ``make test`` runs too.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from kafka.errors import KafkaError

from contract.command_line import run_command_line
from contract.errors import FramewatchError
from contract.manifest import open_bundle
from contract.runtime import Detector
from deploy import fault_rows_of_brokers as brokers
from deploy import fault_rows_of_records as records
from deploy import fault_rows_of_workers as workers
from deploy.bench import room_frames
from deploy.broker import LocalBroker
from deploy.fault_row import Fault, Row, Stage
from deploy.measured import table
from deploy.worker_process import python_command
from worker.engine import Engine
from worker.frames import IncomingFrame

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "faults.md"
OUT: Final = Path("faults-out")
_VIDEO: Final = Path(__file__).resolve().parent / "footage" / "room.mp4"
_ANOMALOUS_SHARE: Final = 0.1

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


ROWS: Final[dict[str, Fault]] = {
    "1": workers.killed,
    "1x": workers.killed_exactly_once,
    "2": workers.suspended,
    "2x": workers.suspended_exactly_once,
    "3": brokers.broker_killed,
    "4": brokers.broker_suspended,
    "5": brokers.cut_off,
    "6": brokers.end_swallowed,
    "7": brokers.no_broker,
    "8": brokers.stopped_without_broker,
    "9": brokers.stale_generation,
    "10": workers.scaled,
    "11": workers.same_name,
    "12": workers.long_batch,
    "13": workers.too_long_batch,
    "14": records.poison,
    "14c": records.codec_missing,
    "14d": records.corrupted,
    "15": records.bomb,
    "16": brokers.topic_gone,
    "16a": brokers.writing_denied,
    "17": brokers.expired,
    "18": workers.inference_fails,
    "19": workers.stopped_under_load,
    "20": workers.soaked,
    "21": workers.clock_moved,
    "22": workers.model_replaced,
}
"""By their numbers; ``x`` is exactly-once, other letters are further forms of a row."""


@app.command()
def faults(
    rows: Annotated[str | None, typer.Option(help="Rows to run alone, separated by commas.")] = None,
    *,
    short: Annotated[bool, typer.Option("--short", help="Few faults and frames; the page is left as it is.")] = False,
) -> int:
    """Inject every fault, print a row each, and write the page."""
    chosen = rows.split(",") if rows else list(ROWS)
    told: dict[str, Row] = {}
    with staged(short=short) as stage:
        for name in chosen:
            told[name] = run_row(name, stage)
            typer.echo(" | ".join(cells(name, told[name])))
    if not short and rows is None:
        PAGE.write_text(page(told), encoding="utf-8")
    return 0 if all(row.holds for row in told.values()) else 1


def run_row(name: str, stage: Stage) -> Row:
    """Inject one fault; a row that does not come to its end does not hold."""
    try:
        return ROWS[name](stage)
    except (FramewatchError, KafkaError, subprocess.TimeoutExpired) as error:
        fault = (ROWS[name].__doc__ or name).rstrip(".")
        return Row(fault, 1, holds=False, seen=f"{type(error).__name__}: {error}"[:300])


@contextmanager
def staged(*, short: bool) -> Iterator[Stage]:
    """A broker, a small model and footage for the rows."""
    OUT.mkdir(exist_ok=True)
    bundle = _small_bundle()
    encoded = room_frames()
    threshold = _threshold(bundle, encoded)
    folder = Path(tempfile.mkdtemp(dir=OUT))
    with LocalBroker(log_path=folder / "kafka.log") as broker:
        yield Stage(broker, folder, bundle, threshold, encoded, short)


def cells(name: str, row: Row) -> tuple[str, ...]:
    """A row's cells."""
    recovered = f"{row.recovered_seconds:.1f}" if row.recovered_seconds is not None else ""
    counts = (row.injected, row.frames, row.missing, row.repeated, row.different)
    return (name, row.fault, *map(str, counts), recovered, "yes" if row.holds else "NO", row.seen)


def page(told: dict[str, Row]) -> str:
    """The page as Markdown."""
    columns = (
        "row", "fault", "injected", "frames", "missing", "repeated", "different", "recovered after, s", "holds", "seen"
    )  # fmt: skip
    lines = [
        "# Faults",
        "",
        "`make faults` writes this page: every fault is done to real workers on a real Kafka, and what they told is",
        "compared with an uninterrupted run over the same records. Missing: frames with neither a score nor a dead",
        "letter, and alerts never told. Repeated, in exactly-once: told more than once. Different: scores by more than",
        "1e-4, alerts by anything but their pictures.",
        "",
        *table(columns, [cells(name, row) for name, row in told.items()]),
        "",
    ]
    return "\n".join(lines)


def _small_bundle() -> Path:
    """Fit and export a small model, once a checkout."""
    bundle = OUT / "bundle"
    if (bundle / "manifest.json").is_file():
        return bundle
    config = OUT / "fit.yaml"
    config.write_text(
        """\
model: {height: 64, width: 112, widths: [8, 8, 8], latent: 8, bottleneck: frame, clip_frames: 3, motion: difference-1,
        comparator: null}
pseudo_anomalies: []
augment: false
batch: 16
precision: fp32
device: cpu
epochs: 4
""",
        encoding="utf-8",
    )
    shutil.rmtree(OUT / "run", ignore_errors=True)
    for command in (
        python_command("trainer", "fit", f"{_VIDEO}#0:200", "--config", str(config), "--out", str(OUT / "run")),
        python_command("exporter", "build", str(OUT / "run"), "--out", str(bundle), "--name", "faults"),
    ):
        subprocess.run(command, check=True, capture_output=True)
    return bundle


def _threshold(bundle: Path, encoded: list[bytes]) -> float:
    engine = Engine(Detector(open_bundle(bundle), "cpu", 1))
    frames = [IncomingFrame("room", "frames", 0, number, 0, data) for number, data in enumerate(encoded)]
    scores = [
        one.anomaly_score or 0.0
        for start in range(0, len(frames), 64)
        for one in engine.process(frames[start : start + 64])
    ]
    return float(np.quantile(scores, 1 - _ANOMALOUS_SHARE))


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run_command_line(app, "faults"))


if __name__ == "__main__":
    main()
