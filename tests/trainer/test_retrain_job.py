"""A retraining is pinned once: run again it is the same one, beside another process it is none."""

import json
import multiprocessing
import os
import signal

import pytest

from contract.errors import ConfigError
from contract.settings import load_settings
from trainer.retrain_job import (
    JOB_NAME,
    REPORT_NAME,
    BusyError,
    alone,
    find_job,
    forget_old,
    pin_job,
    settings_digest,
    whole_hour,
)
from trainer.retrain_settings import RetrainSettings

_HOUR = 3_600_000
_TO = 500_000 * _HOUR


def _settings(**more):
    return load_settings(RetrainSettings, flags={"camera": "hall", "hours": 10, **more})


def test_what_is_pinned_is_the_last_whole_hours_and_their_last_fifth(tmp_path):
    _, job = pin_job(tmp_path, _settings(), whole_hour(_TO + 1234), "models:/hall/3")
    assert (job.from_ms, job.split_ms, job.to_ms) == (_TO - 10 * _HOUR, _TO - 2 * _HOUR, _TO)
    assert job.champion == "models:/hall/3"


def test_begun_again_it_is_the_same_with_the_champion_of_then(tmp_path):
    first = pin_job(tmp_path, _settings(), _TO, "models:/hall/3")
    assert pin_job(tmp_path, _settings(), _TO, "models:/hall/4") == first
    assert find_job(tmp_path, _settings(), _TO) == first


def test_what_could_not_be_finished_for_a_day_is_begun_anew(tmp_path):
    first = pin_job(tmp_path, _settings(), _TO, None)
    assert find_job(tmp_path, _settings(), _TO + 20 * _HOUR) == first
    assert find_job(tmp_path, _settings(), _TO + 24 * _HOUR) is None


def test_other_settings_are_another_retraining(tmp_path):
    pin_job(tmp_path, _settings(), _TO, None)
    assert find_job(tmp_path, _settings(fit={"seed": 1}), _TO) is None
    assert find_job(tmp_path, _settings(**{"rule.lost_events": 1}), _TO) is None
    # Where it is kept changes nothing of it.
    assert settings_digest(_settings(folder=tmp_path / "elsewhere", keep=2)) == settings_digest(_settings())


def test_what_is_finished_is_not_gone_on_with(tmp_path):
    path, job = pin_job(tmp_path, _settings(), _TO, None)
    (path / REPORT_NAME).write_text("{}")
    assert find_job(tmp_path, _settings(), _TO) is None
    assert pin_job(tmp_path, _settings(), _TO, None) == (path, job)


def test_a_job_that_was_being_written_is_none(tmp_path):
    path, _ = pin_job(tmp_path, _settings(), _TO, None)
    (path / JOB_NAME).rename(path / f"{JOB_NAME}.part")
    assert find_job(tmp_path, _settings(), _TO) is None
    assert pin_job(tmp_path, _settings(), _TO, "models:/hall/1")[1].champion == "models:/hall/1"


def test_a_file_that_is_no_job_is_said(tmp_path):
    path, _ = pin_job(tmp_path, _settings(), _TO, None)
    (path / JOB_NAME).write_text(json.dumps({"camera": "hall"}))
    with pytest.raises(ConfigError, match="is no retraining of this version"):
        find_job(tmp_path, _settings(), _TO)


def test_the_newest_are_kept_and_what_others_left_unfinished_is_not(tmp_path):
    made = [pin_job(tmp_path, _settings(), _TO + hour * _HOUR, None)[0] for hour in range(5)]
    for path in made:
        (path / REPORT_NAME).write_text("{}")
    stale, _ = pin_job(tmp_path, _settings(keep=3, fit={"seed": 9}), _TO + 2 * _HOUR, None)
    forget_old(tmp_path, 3, made[4])
    assert sorted(path for path in tmp_path.iterdir() if path.is_dir()) == made[2:]
    assert not stale.exists()


def _hold(folder, held):
    with alone(folder):
        held.set()
        signal.pause()


def test_one_process_at_a_time_and_a_killed_one_holds_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "hall", held))
    process.start()
    assert held.wait(60)
    with pytest.raises(BusyError), alone(tmp_path / "hall"):
        pass
    with alone(tmp_path / "other"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with alone(tmp_path / "hall"):
        pass


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"camera": "a/b"}, "camera: "),
        ({"hours": 0}, "hours: "),
        ({"compare_share": 1}, "compare_share: "),
        ({"source": "footage/{camera}"}, "normal must name footage to compare on where source is no topic"),
        ({"fit": {"epochs": 0}}, "fit: epochs: "),
        ({"fit": {"epoch": 3}}, "fit: epoch: is not known"),
        ({"model": "a b"}, "model: "),
        ({"rule": {"lost_events": -1}}, "rule.lost_events: "),
        ({"labelled": [{"source": "a.mp4"}]}, "labelled.0.labels: is required"),
        ({"keep": 0}, "keep: "),
    ],
)
def test_wrong_settings_are_named(flags, said):
    with pytest.raises(ConfigError) as caught:
        _settings(**flags)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
