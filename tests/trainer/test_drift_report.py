"""``trainer drift`` on a really fitted, really exported model."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from contract.drift import DriftRule, make_test
from contract.errors import ConfigError
from contract.manifest import open_bundle
from contract.source import open_source
from exporter.build import build_bundle
from tests.footage import tiny_settings
from trainer.__main__ import app
from trainer.checkpoint import CHECKPOINT_NAME, load_checkpoint
from trainer.drift_report import measure_drift
from trainer.evaluate import open_model
from trainer.fit import fit

QUIET = Console(quiet=True)


def write_scene(folder: Path, frames: int, *, seed: int, changed: range = range(0)) -> str:
    """A noisy scene, with a table in it while it is changed."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    slope = np.linspace(60, 160, 96)
    for index in range(frames):
        scene = slope[None, :] + random.normal(0, 3, (96, 96))
        if index in changed:
            scene[50:80, 20:60] += 60
        cv2.imwrite(str(folder / f"{index:04d}.png"), np.clip(scene, 0, 255).astype(np.uint8))
    return str(folder)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drift")
    source = write_scene(folder / "normal", 640, seed=0)
    fit(open_source(source), source, tiny_settings(epochs=3), folder / "run", QUIET)
    build_bundle(folder / "run", folder / "bundle")
    build_bundle(folder / "run", folder / "int8", "int8")
    write_scene(folder / "same", 200, seed=1)
    write_scene(folder / "table", 200, seed=2, changed=range(200))
    write_scene(folder / "van", 200, seed=3, changed=range(60, 130))
    return folder


def report(fitted, model, footage):
    return measure_drift(open_model(fitted / model, "cpu"), open_source(str(fitted / footage)), QUIET)


def test_a_bundle_says_what_blocks_of_normal_footage_are_like(fitted):
    kept, told = load_checkpoint(fitted / "run").drift, open_bundle(fitted / "bundle").manifest.drift
    assert kept is not None
    assert kept == told
    assert len(told.floor) >= 20
    assert len(told.latent.mean) == 8
    assert make_test(told, DriftRule()) is not None


@pytest.mark.parametrize("model", ["run", "bundle", "int8"])
def test_a_lasting_change_is_told_from_the_same_scene_and_from_an_anomaly(fitted, model):
    same, table, van = (report(fitted, model, footage) for footage in ("same", "table", "van"))
    assert [one.changed for one in (same, table, van)] == [False, True, False]
    assert table.measures[0].direction == "higher"
    assert table.measures[0].spreads > 3
    assert 20 < van.measures[1].share_percent < 60
    assert "changed for good" in table.reason


def test_a_run_and_its_bundle_say_the_same(fitted):
    of_run, of_bundle = (report(fitted, model, "table") for model in ("run", "bundle"))
    for one, other in zip(of_run.measures, of_bundle.measures, strict=True):
        assert (one.measure, one.direction, one.lasts) == (other.measure, other.direction, other.lasts)
        assert one.spreads == pytest.approx(other.spreads, rel=1e-3)
    assert [one.measure for one in of_run.measures] == ["floor", "middle", "latent"]
    # Quantized latents are not those that the fit saw.
    assert [one.measure for one in report(fitted, "int8", "table").measures] == ["floor", "middle"]


def test_the_command_says_it_in_json_and_in_a_line(fitted, capfd):
    with pytest.raises(SystemExit) as left:
        app(["drift", str(fitted / "bundle"), str(fitted / "table"), "--device", "cpu"])
    assert left.value.code == 0
    out, err = capfd.readouterr()
    said = json.loads(out)
    assert said["changed"] is True
    assert said["reason"] in " ".join(err.split())


def test_a_run_from_before_there_was_drift_is_read_and_says_that_it_knows_none(fitted, tmp_path):
    content = torch.load(fitted / "run" / CHECKPOINT_NAME, weights_only=True)
    del content["drift"]
    (tmp_path / "run").mkdir()
    torch.save(content, tmp_path / "run" / CHECKPOINT_NAME)
    assert load_checkpoint(tmp_path / "run").drift is None
    model = open_model(tmp_path / "run", "cpu")
    with pytest.raises(ConfigError, match="no blocks of normal footage"):
        measure_drift(model, open_source(str(fitted / "same")), QUIET)
