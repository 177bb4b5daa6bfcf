"""Writes ``docs/reference``: settings, commands, metrics, records and exit codes, as the code itself says them.

``make reference`` writes the pages; a test says where they differ from the code.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer
from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector
from pydantic import BaseModel
from typer.cli import get_docs_for_click

import contract.errors
import exporter.__main__
import trainer.__main__
import worker.__main__
from contract.command_line import DONE, FAILED, INTERRUPTED, MISTAKE, run_command_line
from contract.settings import ENV_PREFIX
from deploy import licences
from deploy.measured import table
from deploy.reference_fields import Group, field_table, groups, plain
from trainer.retrain_settings import RetrainSettings
from trainer.settings import FitSettings
from worker.camera_settings import CameraSettings
from worker.console.settings import ConsoleSettings
from worker.settings import WorkerSettings
from worker.telemetry import Metrics

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
_NOTE: Final = "*Written from the code by `make reference`.*"
_PROGRAMS: Final = {"worker": worker.__main__.app, "trainer": trainer.__main__.app, "exporter": exporter.__main__.app}
_SCHEMAS: Final = {
    "alert.v1": "an anomaly, on the alerts topic",
    "camera.v1": "a camera's health and drift, on the alerts topic",
    "model_changed.v1": "a camera that another bundle scores now, on the alerts topic",
    "feedback.v1": "a verdict on an event, on the feedback topic",
}
_CODES: Final = {
    DONE: "done, or stopped by SIGTERM or Ctrl-C after finishing its batches",
    FAILED: "it failed while running; start it again, nothing unconfirmed was committed",
    MISTAKE: "a mistake in what was asked; the one line on standard error names it",
    INTERRUPTED: "interrupted, or told twice to stop",
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _settings(title: str, says: str, model: type[BaseModel], **kept: Any) -> str:  # noqa: ANN401
    """A page of one file of settings; ``kept`` holds the prefix of the environment and defaults."""
    environment = kept.get("environment")
    lines = [f"# {title}", "", _NOTE, "", says, ""]
    for group in groups(model.model_json_schema(), kept.get("defaults")):
        lines += _section(group, environment)
    return "\n".join(lines)


def _section(group: Group, environment: str | None) -> list[str]:
    if not group.fields:
        return []
    heading = [f"## {group.path}", "", group.meaning, ""] if group.path else []
    return [*heading, *field_table(group.fields, environment), ""]


def worker_settings() -> str:
    """The page of a worker's settings."""
    says = (
        "`worker run --config FILE` reads them from YAML, a group being a mapping of its own; the environment variable "
        "under a name wins over the file, a flag of [`worker run`](worker.md#worker-run) over both. Unknown names are "
        "refused. [Operations](../operations.md#settings) shows them at work."
    )
    return _settings("Settings of a worker", says, WorkerSettings, environment=ENV_PREFIX)


def camera_settings() -> str:
    """The page of what is set for single cameras."""
    says = (
        "The file that the worker's setting `cameras` names holds these under each camera's id; a folder holds a file "
        "`CAMERA_ID.yaml` for each. [Operations](../operations.md#cameras) shows them at work."
    )
    return _settings("Settings of a camera", says, CameraSettings)


def console_settings() -> str:
    """The page of the console's settings."""
    says = "`worker console --config FILE` reads them from YAML. [Operations](../operations.md#console) shows them."
    return _settings("Settings of the console", says, ConsoleSettings, environment=ENV_PREFIX)


def fit_settings() -> str:
    """The page of a fit's settings."""
    says = (
        "`trainer fit --config FILE` reads them from YAML; where the footage is `kafka://`, the environment variables "
        "win over it. Defaults are those of the preset `balanced`; [another preset](../detection.md#which-preset) has "
        "others."
    )
    defaults = FitSettings().model_dump(mode="json")
    return _settings("Settings of a fit", says, FitSettings, environment=ENV_PREFIX, defaults=defaults)


def retrain_settings() -> str:
    """The page of a retraining's settings."""
    says = (
        "`trainer retrain --config FILE` reads them from YAML; environment variables win over it. "
        "[Retraining](../retraining.md) shows them at work."
    )
    return _settings("Settings of a retraining", says, RetrainSettings, environment=ENV_PREFIX)


def commands(program: str) -> str:
    """The page of a program's commands, as Typer tells them."""
    command = typer.main.get_command(_PROGRAMS[program])
    told = get_docs_for_click(obj=command, ctx=typer.Context(command), name=program)
    title, _, rest = told.partition("\n")
    return "\n".join([title, "", _NOTE, "", *rest.strip().splitlines()]) + "\n"


def metrics() -> str:
    """The page of what a worker counts."""
    held = Metrics().registry
    rows = [row for one in held._collector_to_names for row in _metrics_of(one)]  # noqa: SLF001 - nothing else lists them
    says = (
        "On `http.host:http.port` under `/metrics`, in the text format of Prometheus. What values labels have, and "
        "what to watch, [operations](../operations.md#metrics-and-probes) says. A histogram has `_bucket`, `_sum` and "
        "`_count`."
    )
    return "\n".join([
        "# Metrics of a worker", "", _NOTE, "", says, "",
        *table(("metric", "type", "labels", "meaning", "buckets"), sorted(rows)), "",
    ])  # fmt: skip


def _metrics_of(one: Collector) -> Iterator[tuple[str, str, str, str, str]]:
    buckets: Sequence[float] = ()
    labels: Sequence[str] = ()
    if isinstance(one, MetricWrapperBase):
        # Neither is told otherwise before a value is observed.
        labels, buckets = one._labelnames, one._kwargs.get("buckets", Histogram.DEFAULT_BUCKETS)  # noqa: SLF001
    for family in one.describe() if isinstance(one, MetricWrapperBase) else one.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        bounds = [f"{bound:g}" for bound in buckets if bound < math.inf] if family.type == "histogram" else []
        named = labels or list(dict.fromkeys(label for sample in family.samples for label in sample.labels))
        yield (
            f"`{family.name}{suffix}`",
            family.type,
            ", ".join(f"`{label}`" for label in named),
            plain(family.documentation),
            ", ".join(bounds),
        )


def records() -> str:
    """The page of what travels on Kafka."""
    lines = [
        "# Records", "", _NOTE, "",
        "The value of a record is one JSON object; [reading alerts](../consumers.md) has consumers of it.", "",
        "What frames, scores and dead letters hold, [operations](../operations.md#topics) says.", "",
    ]  # fmt: skip
    for name, says in _SCHEMAS.items():
        schema = json.loads((DOCS / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
        lines += [f"## {name}", "", f"{says[0].upper()}{says[1:]}: [{name}.json](../schemas/{name}.json).", ""]
        for group in groups(schema):
            lines += _record(group)
    return "\n".join(lines)


def _record(group: Group) -> list[str]:
    heading = [f"**`{group.path}`**: {group.meaning}", ""] if group.path else []
    return [*heading, *field_table(group.fields), ""] if group.fields else []


def exit_codes() -> str:
    """The page of exit codes and of the errors behind them, whose tree the module of errors draws."""
    tree = [line for line in (contract.errors.__doc__ or "").splitlines() if line.startswith("    ")]
    return "\n".join([
        "# Exit codes", "", _NOTE, "",
        "Those of every command of `worker`, `trainer` and `exporter`.", "",
        *table(("code", "meaning"), [(str(code), says) for code, says in _CODES.items()]), "",
        "What was foreseen is told in one line, without a traceback. By the errors, as Python calls them:", "",
        *tree, "",
    ])  # fmt: skip


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "worker.md": lambda: commands("worker"),
    "trainer.md": lambda: commands("trainer"),
    "exporter.md": lambda: commands("exporter"),
    "worker-settings.md": worker_settings,
    "camera-settings.md": camera_settings,
    "console-settings.md": console_settings,
    "fit-settings.md": fit_settings,
    "retrain-settings.md": retrain_settings,
    "metrics.md": metrics,
    "records.md": records,
    "exit-codes.md": exit_codes,
    "licences.md": licences.page,
}


@app.command()
def write() -> None:
    """Write every page anew."""
    folder = DOCS / "reference"
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_command_line(app, "reference"))
