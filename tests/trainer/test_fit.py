import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from contract.errors import CheckpointError, ConfigError, TrainingError
from contract.event import EventRule
from contract.source import open_source
from tests.calibrations import made_calibration
from tests.footage import TINY, tiny_settings, write_scene
from trainer.calibrate import _rule_for
from trainer.checkpoint import load_checkpoint, load_samples
from trainer.disturb import PSEUDO_ANOMALIES
from trainer.fit import fit

ROOT = Path(__file__).resolve().parents[2]


def run_fit(scene: Path, out: Path, **changes):
    source = str(scene)
    return fit(open_source(source), source, tiny_settings(**changes), out, Console(quiet=True))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("footage") / "scene", 60)


def weights(run: Path):
    return load_checkpoint(run).detector.state_dict()


def assert_equal_weights(one: Path, other: Path):
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_the_same_seed_gives_the_same_weights(scene, tmp_path):
    run_fit(scene, tmp_path / "a", seed=3)
    run_fit(scene, tmp_path / "b", seed=3)
    run_fit(scene, tmp_path / "c", seed=4)
    assert_equal_weights(tmp_path / "a", tmp_path / "b")
    assert any(not torch.equal(t, weights(tmp_path / "c")[n]) for n, t in weights(tmp_path / "a").items())


def test_training_lowers_the_loss_and_keeps_the_best_epoch(scene, tmp_path):
    checkpoint = run_fit(scene, tmp_path / "run", epochs=12)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    held_out = [epoch["validation_loss"] for epoch in summary["epochs"]]
    assert min(held_out) < held_out[0] / 2
    assert checkpoint.training["best_validation_loss"] == min(held_out)
    assert checkpoint.training["best_epoch"] == 1 + int(np.argmin(held_out))


def test_a_run_folder_holds_what_people_and_the_exporter_need(scene, tmp_path):
    run = tmp_path / "run"
    run_fit(scene, run)
    names = {path.name for path in run.iterdir()}
    assert names == {
        "checkpoint.pt", "settings.json", "summary.json", "samples.npz", "curves.png",
        "reconstructions.png", "tensorboard",
    }  # fmt: skip
    assert any((run / "tensorboard").iterdir())
    assert load_samples(run).calibration.shape[1:] == (1, 64, 64, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "l1"},
        {"loss": "ssim"},
        {"noise": 0.1},
        {"precision": "bf16"},
        {"model": {"clip_frames": 4}},
        {"model": {"bottleneck": "tile", "tile": 2}},
        {"model": {"bottleneck": "spatial"}},
        {"model": {"channels": 3}},
        {"epochs": None, "minutes": 0.02},
    ],
    ids=str,
)
def test_every_variant_fits_and_calibrates(scene, tmp_path, changes):
    checkpoint = run_fit(scene, tmp_path / "run", **changes)
    assert np.isfinite(checkpoint.calibration.threshold)
    assert load_checkpoint(tmp_path / "run").calibration == checkpoint.calibration


def test_noise_trains_a_denoiser(scene, tmp_path):
    checkpoint = run_fit(scene, tmp_path / "run", noise=0.2, epochs=40)
    samples = load_samples(tmp_path / "run")
    clean = torch.from_numpy(samples.calibration[:, 0, :, :, 0]).float()[:, None] / 255
    noisy = (clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    with torch.inference_mode():
        denoised = checkpoint.detector.autoencoder(noisy)
    assert torch.square(denoised - clean).mean() < torch.square(noisy - clean).mean() / 4


def test_a_disturbed_frame_scores_above_the_threshold(scene, tmp_path):
    checkpoint = run_fit(
        scene, tmp_path / "run", epochs=300, pseudo_anomalies=PSEUDO_ANOMALIES, model={"bottleneck": "spatial"}
    )
    samples = load_samples(tmp_path / "run")
    with torch.inference_mode():
        normal, _ = checkpoint.detector(torch.from_numpy(samples.calibration))
        disturbed, _ = checkpoint.detector(torch.from_numpy(samples.disturbed))
    assert (normal < checkpoint.calibration.threshold).float().mean() > 0.9
    assert (disturbed > normal.max()).float().mean() > 0.6
    # Twelve calibration frames set a high threshold.
    assert (disturbed >= checkpoint.calibration.threshold).float().mean() > 0.25


def test_a_loss_that_is_not_finite_stops_the_fit_and_leaves_nothing(scene, tmp_path):
    with pytest.raises(TrainingError, match="learning_rate"):
        _poisoned_fit(scene, tmp_path)
    assert not (tmp_path / "run").exists()


def _poisoned_fit(scene, tmp_path):
    # A learning rate of 1 alone rarely gives NaN behind a sigmoid; weights that overflow always do.
    original = torch.nn.Linear.reset_parameters

    def poison(layer):
        original(layer)
        torch.nn.init.constant_(layer.weight, float("inf"))

    torch.nn.Linear.reset_parameters = poison
    try:
        run_fit(scene, tmp_path / "run")
    finally:
        torch.nn.Linear.reset_parameters = original


def test_a_finished_or_foreign_folder_is_refused(scene, tmp_path):
    run_fit(scene, tmp_path / "run")
    with pytest.raises(ConfigError, match="finished"):
        run_fit(scene, tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="other files"):
        run_fit(scene, tmp_path / "other")


def no_training(*_arguments, **_named):
    raise AssertionError("it was trained")


def test_a_budget_that_the_footage_cannot_show_is_refused_before_training(scene, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.fit._train", no_training)
    with pytest.raises(ConfigError, match=r"720 h held out, 3,600 h in all at calibration_share 0.2.*--extrapolate"):
        run_fit(scene, tmp_path / "run", false_events_per_day=0.1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes", [{}, {"extrapolate": True}, {"false_events_per_day": 0.1, "extrapolate": True}], ids=str
)
def test_a_budget_that_was_not_given_or_is_to_be_extrapolated_is_fitted(scene, tmp_path, changes):
    checkpoint = run_fit(scene, tmp_path / "run", **changes)
    calibration = checkpoint.calibration
    assert calibration.false_events_per_day == changes.get("false_events_per_day", 1)
    assert not calibration.supported
    assert calibration.min_frames < 4
    assert checkpoint.event_rule == EventRule(min_frames=4)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["calibration"]
    assert summary["false_events_per_day_low"] <= summary["false_events_per_day_high"]
    assert load_checkpoint(tmp_path / "run").calibration == calibration


@pytest.mark.parametrize(
    ("supported", "frames_per_second", "chosen", "asked"),
    [(True, 10, 1, 1), (True, 10, 8, 8), (False, 10, 1, 4), (False, 10, 8, 8), (False, 2.5, 1, 2), (False, 0.2, 1, 1)],
)
def test_an_extrapolated_budget_asks_for_events_of_four_frames_within_a_second(
    supported, frames_per_second, chosen, asked
):
    fitted = made_calibration(supported=supported, frames_per_second=frames_per_second, min_frames=chosen)
    assert _rule_for(fitted) == EventRule(min_frames=asked)


def test_a_budget_within_reach_is_fitted(tmp_path):
    # A fifth is held out: 42 frames, at one in ten seconds.
    scene = write_scene(tmp_path / "scene", 210)
    within = {"frames_per_second": 0.1, "event_rule": {"min_frames": 1, "gap_frames": 0}}
    checkpoint = run_fit(scene, tmp_path / "run", false_events_per_day=620, **within)
    assert checkpoint.calibration.false_events_per_day == 620
    assert checkpoint.event_rule == EventRule(min_frames=1, gap_frames=0)
    with pytest.raises(ConfigError, match="618 at the least"):
        run_fit(scene, tmp_path / "other", false_events_per_day=610, **within)


@pytest.mark.parametrize(("ranges", "shown"), [("", 6), ("#0:29,31:59", 4)])
def test_a_rule_that_was_given_is_kept_and_fitted_within_unbroken_stretches(scene, tmp_path, ranges, shown):
    source = f"{scene}{ranges}"
    settings = tiny_settings(event_rule={"min_frames": 6, "gap_frames": 3})
    checkpoint = fit(open_source(source), source, settings, tmp_path / "run", Console(quiet=True))
    assert checkpoint.event_rule == EventRule(min_frames=6, gap_frames=3)
    assert checkpoint.calibration.min_frames == shown


def test_the_command_says_what_was_extrapolated_and_that_no_budget_was_asked_for(scene, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps({**TINY, "epochs": 1}))
    said = subprocess.run(command(scene, config, tmp_path / "run"), check=True, capture_output=True, cwd=ROOT).stderr
    lines = said.decode().splitlines()
    assert any(line.startswith("set for 1 false event a day; 95% interval") for line in lines)
    (note,) = (line for line in lines if line.startswith("note: ") and "none was asked for" in line)
    assert "72 h held out would show it" in note
    assert any("no drift is told" in line for line in lines)


def command(scene: Path, config: Path, out: Path, *more: str):
    return [sys.executable, "-m", "trainer", "fit", str(scene), "--out", str(out), "--config", str(config), *more]


def test_a_killed_fit_goes_on_and_ends_with_the_same_weights(scene, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps({**TINY, "epochs": 10, "min_epoch_steps": 12, "save_every_seconds": 0}))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(scene, config, whole), check=True, capture_output=True, cwd=ROOT)
    child = subprocess.Popen(
        command(scene, config, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    ends_at = time.monotonic() + 60
    while not (killed / "last.pt").exists() and child.poll() is None and time.monotonic() < ends_at:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (killed / "checkpoint.pt").exists(), "the fit ended before it could be killed"
    with pytest.raises(CheckpointError, match="again to go on"):
        load_checkpoint(killed)
    said = subprocess.run(command(scene, config, killed), check=True, capture_output=True, cwd=ROOT).stderr.decode()
    assert "going on with the fit" in said
    assert_equal_weights(whole, killed)
    assert not (killed / "last.pt").exists()


def test_a_stopped_fit_with_other_settings_is_refused(scene, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    what = {"framewatch": "0.0.1", "source": "elsewhere", "settings": {}}
    (out / "settings.json").write_text(json.dumps(what))
    with pytest.raises(ConfigError, match="other settings"):
        run_fit(scene, out)


def test_a_stopped_fit_does_not_go_on_with_other_footage(scene, tmp_path, monkeypatch):
    out = tmp_path / "run"
    footage = tmp_path / "footage"
    shutil.copytree(scene, footage)
    with monkeypatch.context() as patch:
        patch.setattr("trainer.fit.calibrate_detector", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_fit(footage, out, save_every_seconds=0)
    assert (out / "last.pt").exists()
    write_scene(tmp_path / "more", 4, seed=9)
    for path in (tmp_path / "more").iterdir():
        path.rename(footage / f"9{path.name}")
    with pytest.raises(ConfigError, match="other footage"):
        run_fit(footage, out, save_every_seconds=0)
    assert (out / "last.pt").exists()


def interrupt(*_arguments, **_named):
    raise KeyboardInterrupt


def test_passwords_in_an_address_are_not_written_down(scene, tmp_path):
    source = "rtsp://admin:hunter2@127.0.0.1/door?token=s3cret#0:29"
    fit(open_source(str(scene)), source, tiny_settings(), tmp_path / "run", Console(quiet=True))
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            assert b"hunter2" not in path.read_bytes(), path
            assert b"s3cret" not in path.read_bytes(), path
    assert "127.0.0.1" in load_checkpoint(tmp_path / "run").training["source"]


def test_an_epoch_of_long_footage_has_its_most_steps(scene, tmp_path):
    checkpoint = run_fit(scene, tmp_path / "run", epochs=3, min_epoch_steps=1, max_epoch_steps=2)
    assert checkpoint.training["steps"] == 6


def test_the_held_out_loss_of_ssim_is_that_of_fp32(scene, tmp_path):
    low = {"loss": "ssim", "epochs": 1, "min_epoch_steps": 1}
    for precision in ("fp32", "bf16"):
        run_fit(scene, tmp_path / precision, precision=precision, **low)
    losses = [
        json.loads((tmp_path / precision / "summary.json").read_text())["epochs"][0]["validation_loss"]
        for precision in ("fp32", "bf16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_no_memory_for_the_model_is_one_line_and_leaves_nothing(scene, tmp_path):
    with pytest.raises(TrainingError, match="no memory for this model"):
        # 64 x 64 x 65,536 weights of a fully connected layer are a terabyte.
        run_fit(
            scene, tmp_path / "run",
            model={"height": 2048, "width": 2048, "widths": [1024], "latent": 65_536},
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("length", [{"epochs": 2}, {"minutes": 0.03}], ids=str)
def test_torchrun_trains_on_two_processes(scene, tmp_path, length):
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps({**TINY, **length}))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    arguments = command(scene, config, tmp_path / "run")[2:]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *arguments], capture_output=True, check=False, cwd=ROOT, env=environment, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_checkpoint(tmp_path / "run").training["processes"] == 2
