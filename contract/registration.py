"""The steps of registering a bundle: its model, its run, and what is logged there. Each may be done again."""

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contract.errors import ConfigError
from contract.manifest import Bundle, Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

DIGEST_TAG: Final = "framewatch.digest"
_EXPERIMENTS: Final = "framewatch/"
_ALREADY: Final = "RESOURCE_ALREADY_EXISTS"

_FILES: Final = "files"
_MOST_AT_ONCE: Final = 100
_LONGEST: Final = 500


def make_model(client: "MlflowClient", name: str) -> None:
    """Make the registered model where it is not there."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != _ALREADY:
            raise


def version_with(client: "MlflowClient", name: str, digest: str) -> "ModelVersion | None":
    """Find the version that holds a bundle."""
    wanted = f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'"
    return min(client.search_model_versions(wanted), key=lambda one: int(one.version), default=None)


def run_of(
    client: "MlflowClient", name: str, bundle: Bundle, known: "ModelVersion | None", artifacts: str | None
) -> "Run":
    """Find the run that a bundle's figures belong to: that of its version, one that was cut off, or a new one.

    Args:
        client: Of the registry.
        name: Of the model.
        bundle: The bundle.
        known: Its version, if it has one.
        artifacts: Address of the folder for files; None where the server says.
    """
    if known is not None and known.run_id:
        return client.get_run(known.run_id)
    experiment = _experiment(client, name, artifacts)
    wanted = f"tags.`{DIGEST_TAG}` = '{bundle.digest}'"
    begun = client.search_runs([experiment], wanted, max_results=1, order_by=["attributes.start_time ASC"])
    if begun:
        return begun[0]
    called = f"{bundle.manifest.name} {bundle.manifest.version}"
    return client.create_run(experiment, tags={DIGEST_TAG: bundle.digest}, run_name=called)


def _experiment(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    called = f"{_EXPERIMENTS}{name}"
    known = client.get_experiment_by_name(called)
    if known is not None:
        return str(known.experiment_id)
    try:
        return str(client.create_experiment(called, artifacts))
    except MlflowException as error:
        # Another one has just made it.
        known = client.get_experiment_by_name(called) if error.error_code == _ALREADY else None
        if known is None:
            raise
        return str(known.experiment_id)


def log_figures(client: "MlflowClient", run: "Run", bundle: Bundle, metrics: Mapping[str, float]) -> None:
    """Log a bundle's figures and provenance, and other metrics, to its run; what is there already changes nothing.

    Args:
        client: Of the registry.
        run: The bundle's.
        bundle: The bundle.
        metrics: Beside those of its manifest.
    """
    from mlflow.entities import Metric, Param

    run_id, known = run.info.run_id, run.data
    figures = {**metrics_of(bundle.manifest), **metrics}
    new = [(name, value) for name, value in figures.items() if known.metrics.get(name) != value]
    # The last of a metric's values is the one of the highest step.
    steps = {name: len(client.get_metric_history(run_id, name)) for name, _ in new if name in known.metrics}
    logged = [Metric(name, value, run.info.start_time, steps.get(name, 0)) for name, value in new]
    said = [Param(name, value) for name, value in params_of(bundle).items() if name not in known.params]
    for start in range(0, len(logged), _MOST_AT_ONCE):
        client.log_batch(run_id, metrics=logged[start : start + _MOST_AT_ONCE])
    for start in range(0, len(said), _MOST_AT_ONCE):
        client.log_batch(run_id, params=said[start : start + _MOST_AT_ONCE])


def log_files(client: "MlflowClient", run_id: str, files: Mapping[str, Path]) -> None:
    """Log files and folders to a run, beside the bundle and under their names.

    Raises:
        ConfigError: A name is no plain one.
    """
    for name in files:
        if Path(name).name != name:
            raise ConfigError(f"file {name!r} of a registered model is no plain name")
    if not files:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, path in files.items():
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, Path(folder) / name)
        client.log_artifacts(run_id, folder, _FILES)


def metrics_of(manifest: Manifest) -> dict[str, float]:
    """Calibration, parity, quality and training, as numbers by name."""
    calibration = manifest.calibration.model_dump(exclude={"tail", "event_tail", "seed"})
    parity: dict[str, float] = {}
    for row in manifest.parity:
        name = f"parity.{row.output}"
        parity[name] = max(parity.get(name, 0.0), row.largest_difference)
    told = {"calibration": calibration, "quality": manifest.quality, "training": manifest.training}
    numbers = {name: float(value) for name, value in _flat(told) if isinstance(value, int | float)}
    return {name: value for name, value in {**numbers, **parity}.items() if math.isfinite(value)}


def params_of(bundle: Bundle) -> dict[str, str]:
    """What the bundle is and where it came from, as text by name."""
    manifest = bundle.manifest
    told = {
        "bundle": {"name": manifest.name, "version": manifest.version, "digest": bundle.digest},
        "precision": manifest.precision,
        "event_rule": manifest.event_rule.model_dump(),
        "preprocessing": manifest.preprocessing.model_dump(mode="json"),
        "training": manifest.training,
    }
    said = {name: value if isinstance(value, str) else json.dumps(value) for name, value in _flat(told)}
    return {name: value[:_LONGEST] for name, value in said.items()}


def _flat(told: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
