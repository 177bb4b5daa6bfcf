"""``trainer retrain``: fit, calibrate, export, compare, register, promote or not, and say why.

Every step leaves a file or a folder that is there whole or not at all, and is passed over where it is there. So a
retraining that was killed at any moment goes on when it is run again, to the same end.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from contract.command_line import DONE, FAILED, MISTAKE
from contract.errors import (
    ConfigError,
    FootageError,
    FramewatchError,
    ParityError,
    TrainingError,
    UnknownModelError,
    UnsupportedBudgetError,
)
from contract.manifest import SIGNATURE_NAME, Bundle, open_bundle, sign_bundle
from contract.registry import CHALLENGER, CHAMPION, ROLLED_BACK_TAG, Registry
from trainer.checkpoint import CHECKPOINT_NAME
from trainer.compare import Comparison, Evidence
from trainer.compare_command import COMPARISON_NAME, VERDICT_NAME, compare
from trainer.drift_report import measure_drift
from trainer.evaluate import LoadedModel, open_model
from trainer.promotion import Verdict
from trainer.retrain_footage import evidence_of, fit_to
from trainer.retrain_job import (
    REPORT_NAME,
    BusyError,
    Job,
    alone,
    find_job,
    forget_old,
    pin_job,
    whole_hour,
    write_whole,
)
from trainer.retrain_report import PAGE_NAME, RetrainReport, write_page
from trainer.retrain_settings import RetrainSettings

_DRIFT_NAME: Final = "drift.json"
_UNUSABLE: Final = (FootageError, TrainingError, ParityError, UnsupportedBudgetError)
_log = logging.getLogger(__name__)


def retrain(
    settings: RetrainSettings, registry: Registry, now_ms: int, to_ms: int | None, console: Console
) -> RetrainReport:
    """Retrain a camera's model, or go on with a retraining that was stopped, to its end.

    Args:
        settings: What to do.
        registry: Where models are kept.
        now_ms: The time, ms since 1970.
        to_ms: Capture time before which frames are taken; None for the last whole hour.
        console: Where progress is shown.

    Returns:
        What the report tells; of an earlier retraining to the same time with the same settings where there is one.

    Raises:
        BusyError: Another process retrains the camera.
        BrokerUnavailableError: No broker answers; run it again.
        ConfigError: A setting is wrong.
        FramewatchError: A step failed for a reason that may pass; run it again.
    """
    folder = settings.folder / settings.camera
    with alone(folder):
        registry.create()
        found = find_job(folder, settings, now_ms) if to_ms is None else None
        if found is None:
            champion = _in_service(registry, settings.model_name)
            to_ms = whole_hour(now_ms) if to_ms is None else to_ms
            found = pin_job(folder, settings, to_ms, champion)
        path, job = found
        if (path / REPORT_NAME).exists():
            _log.warning("%s was retrained to this time with these settings before; nothing is done", job.camera)
            return RetrainReport.model_validate_json((path / REPORT_NAME).read_bytes())
        report = _Retraining(settings, registry, path, job, console).finish()
        forget_old(folder, settings.keep, path)
        return report


def run_retraining(settings: RetrainSettings, to_ms: int | None, console: Console, *, fail_when_held: bool) -> int:
    """Retrain, say how it ended, and return the exit code.

    It is 0 where a model came of it, whatever the verdict, since to run it again would change nothing, and where
    another process is at it; 1 where none came of it, or it was not promoted and that is to be a failure.

    Raises:
        FramewatchError: As `retrain`.
    """
    registry = Registry(settings.registry, allow_plaintext=settings.registry_allow_plaintext)
    try:
        report = retrain(settings, registry, round(time.time() * 1000), to_ms, console)
    except BusyError:
        _log.warning("%s is being retrained by another process; nothing is done", settings.camera)
        return DONE
    console.print(f"{report.camera}: {report.outcome}: {report.reason}", highlight=False, soft_wrap=True)
    is_failure = report.outcome == "refused" or (fail_when_held and report.outcome == "held")
    return FAILED if is_failure else DONE


def _drift_of(champion: LoadedModel, evidence: Sequence[Evidence], console: Console) -> str:
    """Say how normal footage of late differs from what the champion was calibrated on, or why that is not known."""
    clips = [clip for one in evidence if one.kind == "normal" for clip in one.clips]
    try:
        return measure_drift(champion, clips, console).reason
    except (ConfigError, FootageError) as error:
        return f"not measured: {error}"


def _of_the_machine(stderr: str, said: str) -> bool:
    """Whether the exporter failed for what is no fault of the model's: a full disk, no memory, a defect."""
    return "Traceback" in stderr or said.startswith(("cannot write", "cannot use"))


def _in_service(registry: Registry, name: str) -> str | None:
    """Address of the version that is a model's champion; None where there is none."""
    try:
        return str(registry.find(f"models:/{name}@{CHAMPION}", with_metrics=False).address)
    except UnknownModelError:
        return None


class _Retraining:
    """One retraining, from what of it is done."""

    def __init__(self, settings: RetrainSettings, registry: Registry, path: Path, job: Job, console: Console) -> None:
        self._settings = settings
        self._registry = registry
        self._path = path
        self._job = job
        self._console = console
        self._run = path / "run"
        # On the same disk as the rest, so that whoever goes on finds what was read.
        self._cache = path / "footage"

    def finish(self) -> RetrainReport:
        """Do what is left to do, and tell of it."""
        bundle: Bundle | None = None
        facts: dict[str, Any] = {}
        try:
            self._fit()
            bundle = self._export()
            facts |= self._compare(bundle)
            verdict: Verdict = facts["verdict"]
            version = self._register(bundle, verdict)
            facts |= self._decide(version, verdict)
        except _UNUSABLE as error:
            facts |= {"outcome": "refused", "reason": str(error)}
        report = self._report(bundle, facts)
        write_page(report, None if bundle is None else bundle.manifest, self._run, self._path / PAGE_NAME)
        # Last: a retraining with this file is finished.
        write_whole(self._path / REPORT_NAME, report.model_dump_json(indent=2) + "\n")
        shutil.rmtree(self._cache, ignore_errors=True)
        return report

    def _say(self, step: str) -> None:
        self._console.print(f"{self._job.camera}: {step}", highlight=False, soft_wrap=True)

    def _fit(self) -> None:
        if (self._run / CHECKPOINT_NAME).exists():
            return
        self._say("fitting")
        fit_to(self._settings, self._job, self._run, self._cache, self._console)

    def _export(self) -> Bundle:
        path = self._path / "bundle"
        if path.exists():
            return open_bundle(path)
        self._say("exporting")
        # Of a retraining that was killed, the exporter may still be at work: each has a folder of its own.
        for stale in self._path.glob("export-*"):
            shutil.rmtree(stale, ignore_errors=True)
        out = self._path / f"export-{os.getpid()}"
        # A process of its own, since the trainer does not know the exporter.
        command = [sys.executable, "-m", "exporter", "build", str(self._run), "--out", str(out)]
        command += ["--name", self._settings.model_name, "--precision", self._settings.precision]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1].removeprefix("exporter: ")
        if done.returncode in {FAILED, MISTAKE} and not _of_the_machine(done.stderr, said):
            raise ParityError(said)
        if done.returncode:
            raise FramewatchError(f"exporter build ended with {done.returncode}, {said}; run it again")
        if self._settings.signing_key is not None:
            sign_bundle(out, self._settings.signing_key)
        out.rename(path)
        return open_bundle(path)

    def _compare(self, bundle: Bundle) -> dict[str, Any]:
        out, drift = self._path / "comparison", self._path / _DRIFT_NAME
        if not (out / VERDICT_NAME).exists():
            self._say("comparing")
            champion, device = self._champion(), self._settings.fit_settings(self._cache).device
            try:
                evidence = evidence_of(self._settings, self._job, self._cache, self._console)
                if champion is not None:
                    said = _drift_of(open_model(champion, device), evidence, self._console)
                    write_whole(drift, json.dumps(said) + "\n")
                compare((champion, bundle.folder), evidence, self._settings.rule, out, device, self._console)
            except FootageError as error:
                return {"verdict": Verdict(promoted=False, reason=f"there is nothing to compare on: {error}")}
        return {
            "drift": json.loads(drift.read_text()) if drift.exists() else None,
            "comparison": Comparison.model_validate_json((out / COMPARISON_NAME).read_bytes()),
            "verdict": Verdict.model_validate_json((out / VERDICT_NAME).read_bytes()),
        }

    def _champion(self) -> Path | None:
        if self._job.champion is None:
            return None
        return self._registry.fetch(self._job.champion, self._path / "champion")

    def _register(self, bundle: Bundle, verdict: Verdict) -> int:
        self._say("registering")
        quality = dict(bundle.manifest.quality)
        files: Mapping[str, Path] = {
            name: path
            for name, path in (
                ("curves.png", self._run / "curves.png"),
                ("comparison.html", self._path / "comparison" / "report.html"),
                (COMPARISON_NAME, self._path / "comparison" / COMPARISON_NAME),
            )
            if path.is_file()
        }
        tags = {"framewatch.camera": self._job.camera, "framewatch.verdict": verdict.reason[:5000]}
        return self._registry.register(
            self._settings.model_name, bundle.folder, metrics=quality, files=files, tags=tags, aliases=(CHALLENGER,)
        )

    def _decide(self, version: int, verdict: Verdict) -> dict[str, Any]:
        name = self._settings.model_name
        address = f"models:/{name}/{version}"
        in_service = _in_service(self._registry, name)
        if in_service == address:  # promoted before it was killed
            return {"outcome": "promoted", "reason": verdict.reason, "challenger": address}
        if not verdict.promoted:
            return {"outcome": "held", "reason": verdict.reason, "challenger": address}
        if not self._settings.promote:
            reason = f"{verdict.reason}, and waits to be promoted by hand: trainer promote {name} --version {version}"
            return {"outcome": "held", "reason": reason, "challenger": address}
        if ROLLED_BACK_TAG in self._registry.find(address, with_metrics=False).tags:
            reason = f"{address} was put in service and rolled back from"
            return {"outcome": "held", "reason": reason, "challenger": address}
        if self._is_signed("champion/*/*") and not self._is_signed("bundle"):
            reason = (
                "the model in service is signed and this one is not; set signing_key, or sign and register it by hand"
            )
            return {"outcome": "held", "reason": reason, "challenger": address}
        if in_service != self._job.champion:
            reason = f"{in_service} was put in service meanwhile, with which it was not compared"
            return {"outcome": "held", "reason": reason, "challenger": address}
        self._registry.promote(name, version, verdict.reason)
        self._say(f"{address} is in service")
        return {"outcome": "promoted", "reason": verdict.reason, "challenger": address}

    def _is_signed(self, folder: str) -> bool:
        return any(self._path.glob(f"{folder}/{SIGNATURE_NAME}"))

    def _report(self, bundle: Bundle | None, facts: Mapping[str, Any]) -> RetrainReport:
        job = self._job
        training = {} if bundle is None else bundle.manifest.training
        footage = {name: training[name] for name in ("frames", "topic") if name in training}
        return RetrainReport(
            camera=job.camera, from_ms=job.from_ms, split_ms=job.split_ms, to_ms=job.to_ms, champion=job.champion,
            footage=footage, **facts,
        )  # fmt: skip
