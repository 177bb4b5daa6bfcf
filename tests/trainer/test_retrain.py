"""A retraining ends with the better model in service and a page that says why, however often it was killed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import trainer.__main__
from contract.command_line import run_command_line
from contract.errors import UnknownModelError
from contract.registry import Registry
from tests.footage import TINY, write_scene
from trainer.retrain_job import alone

ROOT = Path(__file__).resolve().parents[2]
TO = "2026-11-26T20:00:00+00:00"
NEXT = "2026-11-26T21:00:00+00:00"


class Retraining:
    """A camera with footage, labels, a registry, and what a retraining of it needs."""

    def __init__(self, folder, registry):
        self.folder = folder
        self.registry = registry
        self.config = folder / "retrain.yaml"
        write_scene(folder / "footage", 120)
        write_scene(folder / "normal", 40, seed=2)
        write_scene(folder / "known", 60, anomalous=range(40, 50), seed=1)
        (folder / "known.csv").write_text("clip,first_frame,last_frame,label\nknown,40,49,1\n")
        self.settings = {
            "camera": "hall",
            "source": str(folder / "footage"),
            "normal": [str(folder / "normal")],
            "labelled": [{"source": str(folder / "known"), "labels": str(folder / "known.csv")}],
            "fit": {**TINY, "pseudo_anomalies": [], "epochs": 20},
            "rule": {"min_normal_seconds": 2},
            "folder": str(folder / "retraining"),
            "registry": str(self.registry),
        }

    def arguments(self, to=TO, *more):
        self.config.write_text(yaml.safe_dump(self.settings))
        return ["retrain", "--config", str(self.config), "--to", to, *more]

    def run(self, to=TO, *more):
        return run_command_line(trainer.__main__.app, "trainer", self.arguments(to, *more))

    def report(self, to=TO):
        (path,) = (self.folder / "retraining" / "hall").glob(f"{to[:4]}{to[5:7]}{to[8:10]}T{to[11:13]}*/report.json")
        return json.loads(path.read_text())

    def champion(self):
        try:
            return Registry(str(self.registry)).find("models:/hall@champion").version
        except UnknownModelError:
            return None


@pytest.fixture
def retraining(tmp_path, new_registry):
    return Retraining(tmp_path, new_registry(tmp_path / "registry"))


def test_the_first_model_is_put_in_service_and_the_next_replaces_it(retraining, capsys):
    assert retraining.run() == 0
    first = retraining.report()
    assert (first["outcome"], first["champion"], first["challenger"]) == ("promoted", None, "models:/hall/1")
    assert "there was no model in service" in first["reason"]
    assert retraining.champion() == 1

    assert retraining.run() == 0  # again: nothing is done
    assert retraining.report() == first
    assert retraining.champion() == 1

    retraining.settings["fit"]["epochs"] = 30
    assert retraining.run(NEXT) == 0
    second = retraining.report(NEXT)
    assert (second["outcome"], second["champion"], second["challenger"]) == (
        "promoted", "models:/hall/1", "models:/hall/2",
    )  # fmt: skip
    assert retraining.champion() == 2
    labelled = next(one for one in second["comparison"]["evidence"] if one["kind"] == "labelled")
    assert (labelled["champion"]["found"], labelled["challenger"]["found"]) == (1, 1)
    assert "hall: promoted: it passed every check" in capsys.readouterr().err
    page = next((retraining.folder / "retraining" / "hall").glob("20261126T21*/report.html")).read_text()
    for said in (
        "hall: the new model is in service",
        "models:/hall/2",
        "events lost",
        "Side by side",
        "data:image/png",
    ):
        assert said in page
    # In the registry is the whole bundle, with what it was judged by.
    tags = Registry(str(retraining.registry)).find("models:/hall@champion").tags
    assert tags["framewatch.camera"] == "hall"
    assert tags["framewatch.promoted_because"] == "it passed every check"


def put_it_everywhere(retraining):
    """What is to be found comes and goes all the time in what is fitted to."""
    write_scene(retraining.folder / "poison", 120, anomalous={number for number in range(120) if number // 10 % 2})
    retraining.settings["source"] = str(retraining.folder / "poison")


def too_little(retraining):
    write_scene(retraining.folder / "little", 12)
    retraining.settings["source"] = str(retraining.folder / "little")


def corrupt(retraining):
    folder = write_scene(retraining.folder / "corrupt", 60)
    for number in range(0, 60, 7):
        path = folder / f"{number:04d}.png"
        path.write_bytes(path.read_bytes()[:200])
    retraining.settings["source"] = str(folder)


def not_finite(retraining):
    def overflow(layer):
        torch.nn.init.constant_(layer.weight, float("inf"))

    retraining.monkeypatch.setattr(torch.nn.Linear, "reset_parameters", overflow)


def frozen(retraining):
    folder = retraining.folder / "frozen"
    folder.mkdir()
    for number in range(40):
        cv2.imwrite(str(folder / f"{number:04d}.png"), np.full((96, 96), 80, np.uint8))
    retraining.settings["source"] = str(folder)


def nothing_to_compare_on(retraining):
    path = retraining.folder / "normal" / "0007.png"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("poison", "outcome", "reason"),
    [
        (nothing_to_compare_on, "held", "there is nothing to compare on: clip normal frame 7"),
        (put_it_everywhere, "held", "it loses 1 that the champion found"),
        (too_little, "refused", "12 frames"),
        (corrupt, "refused", "cannot be decoded"),
        (frozen, "refused", "identical"),
        (not_finite, "refused", "the loss is nan"),
    ],
)
def test_what_poison_makes_is_not_promoted_and_the_page_says_why(retraining, monkeypatch, poison, outcome, reason):
    retraining.monkeypatch = monkeypatch
    assert retraining.run() == 0
    poison(retraining)
    assert retraining.run(NEXT) == (0 if outcome == "held" else 1)
    report = retraining.report(NEXT)
    assert report["outcome"] == outcome
    assert reason in report["reason"]
    assert retraining.champion() == 1
    page = next((retraining.folder / "retraining" / "hall").glob("20261126T21*/report.html")).read_text()
    assert reason in page.lower()
    assert "stays" in page
    assert retraining.run(NEXT, "--fail-when-held") == 1


def of_what_matters(report):
    """What a kill must not change: all but the bundles' names, which hold a digest of when they were made."""
    figures = {key: value for key, value in report["comparison"].items() if key not in {"champion", "challenger"}}
    return {**{key: value for key, value in report.items() if key != "drift"}, "comparison": figures}


def kill_once(retraining, is_there):
    """Start a retraining in a process of its own and kill it as soon as something is there."""
    child = subprocess.Popen(
        [sys.executable, "-m", "trainer", *retraining.arguments(NEXT)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        while not is_there():
            assert child.poll() is None, "it ended before"
            time.sleep(0.002)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


STEPS = {
    "pinned": lambda job, _: any(job.glob("job.json*")),
    "fitting": lambda job, _: (job / "run" / "settings.json").exists(),
    "an epoch": lambda job, _: (job / "run" / "last.pt").exists(),
    "fitted": lambda job, _: (job / "run" / "checkpoint.pt").exists(),
    "exporting": lambda job, _: any(job.glob("export-*/*")) or any(job.glob(".export-*/*")),
    "exported": lambda job, _: (job / "bundle").exists(),
    "compared": lambda job, _: (job / "comparison" / "verdict.json").exists(),
    # The first model's card is there before.
    "registering": lambda _, retraining: len(list(retraining.registry.glob("artifacts/*/*/bundle/MODEL_CARD.md"))) > 1,
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_every_step_it_goes_on_to_the_same_end(tmp_path, new_registry):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, killed = (
        Retraining(tmp_path / name, new_registry(tmp_path / name / "registry")) for name in ("whole", "killed")
    )
    for one in (whole, killed):
        assert one.run() == 0
        one.settings["fit"] |= {"epochs": 30, "save_every_seconds": 0}
    assert whole.run(NEXT) == 0
    for step in STEPS.values():
        kill_once(killed, lambda step=step: any(step(job, killed) for job in jobs_of(killed)))
        assert not any(job.joinpath("report.json").exists() for job in jobs_of(killed))
    assert killed.run(NEXT) == 0
    assert of_what_matters(killed.report(NEXT)) == of_what_matters(whole.report(NEXT))
    assert killed.champion() == whole.champion() == 2


def test_killed_between_promotion_and_report_it_is_promoted_once(retraining, monkeypatch):
    class KilledError(BaseException):
        pass

    def die(*_):
        raise KilledError

    assert retraining.run() == 0
    retraining.settings["fit"]["epochs"] = 30
    with monkeypatch.context() as patched:
        patched.setattr("trainer.retrain.write_page", die)
        with pytest.raises(KilledError):
            retraining.run(NEXT)
    assert retraining.champion() == 2
    assert retraining.run(NEXT) == 0
    report = retraining.report(NEXT)
    assert (report["outcome"], report["champion"], report["challenger"]) == (
        "promoted", "models:/hall/1", "models:/hall/2",
    )  # fmt: skip
    assert retraining.champion() == 2
    assert {one.version for one in Registry(str(retraining.registry)).models("hall")} == {1, 2}


def jobs_of(retraining):
    return (retraining.folder / "retraining" / "hall").glob("20261126T21*")


def test_the_registry_is_made_where_there_is_none(tmp_path):
    retraining = Retraining(tmp_path, tmp_path / "new" / "registry")
    write_scene(tmp_path / "little", 12)
    retraining.settings["source"] = str(tmp_path / "little")
    assert retraining.run() == 1
    assert retraining.report()["outcome"] == "refused"
    assert retraining.champion() is None


def test_beside_another_process_nothing_is_done(retraining, caplog):
    with alone(retraining.folder / "retraining" / "hall"):
        assert retraining.run() == 0
    assert "is being retrained by another process" in caplog.text
    assert retraining.champion() is None
