"""An evaluation measures what the worker would have done live, and its folder is whole or as it was."""

import csv
import json
import re
from dataclasses import dataclass, field
from html import escape
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from contract.errors import CheckpointError, ConfigError, FootageError, LabelError
from contract.event import EventRule
from contract.frame import FrameLimits, Preprocessing, decode_frame
from contract.manifest import open_bundle
from contract.runtime import Detector
from contract.scoring import Calibration, Tail
from contract.source import Clip, SourceFrame, open_source
from tests.calibrations import made_calibration
from trainer.evaluate import evaluate, metrics_table, open_model
from trainer.report import METRIC_TEXTS
from trainer.scored import score_footage

_QUIET = Console(quiet=True)
_THRESHOLD = 100.0


def _calibration():
    return made_calibration(threshold=_THRESHOLD, release_threshold=80.0, tail=Tail(location=0.0, scale=1.0))


@dataclass
class _Brightness:
    """Scores the brightest cell of the newest frame less a tenth of the oldest's, so that the window shows."""

    name: str = "brightness <b>"
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(height=32, width=48))
    clip_frames: int = 2
    calibration: Calibration = field(default_factory=_calibration)
    event_rule: EventRule = field(default_factory=lambda: EventRule(min_frames=3, gap_frames=2))
    largest_batch: int = 0

    def score(self, frames):
        self.largest_batch = max(self.largest_batch, len(frames))
        pixels = frames[..., 0].astype(np.float32)
        maps = (pixels[:, -1] - 0.1 * pixels[:, 0])[:, ::8, ::8]
        return maps.max((1, 2)), maps


@dataclass(frozen=True)
class _ListClip(Clip):
    name: str
    held: tuple[SourceFrame, ...]

    def frames(self):
        return iter(self.held)


def _frame(index, grey, *, patch=0):
    picture = np.full((32, 48), grey, np.uint8)
    picture[8:24, 16:32] += np.uint8(patch)
    return SourceFrame(index, index * 100, cv2.imencode(".png", picture)[1].tobytes())


def _clip(name="a", frames=60, bright=range(20, 30)):
    return _ListClip(name, tuple(_frame(i, 20, patch=180 if i in bright else 0) for i in range(frames)))


def _labels(folder, rows="a,18,29,light\n"):
    path = folder / "labels.csv"
    path.write_text("clip,first_frame,last_frame,label\n" + rows, encoding="utf-8")
    return path


def _read(out):
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def _scores(out):
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_figures_of_known_footage(tmp_path):
    model = _Brightness()
    told = evaluate(model, [_clip(), _clip("b", bright=range(40, 45))], _labels(tmp_path), tmp_path / "out", _QUIET)
    metrics = _read(tmp_path / "out")
    assert metrics == told
    assert (metrics["frames"], metrics["clips"], metrics["anomalous_frames"], metrics["events"]) == (120, 2, 12, 2)
    assert metrics["event_recall"] == 1.0
    # Labelled from frame 18, bright from 20, told at its third bright frame, 22; frames are 0.1 s apart.
    assert metrics["detection_delay_seconds"] == pytest.approx(0.4)
    # The event in b is labelled nowhere: one in 108 normal frames.
    assert metrics["false_events_per_hour"] == pytest.approx(3600 / 10.8)
    assert 0.8 < metrics["frame_auroc"] < 1
    assert metrics["pixel_auroc"] is None
    assert any("masks" in note for note in metrics["notes"])
    assert 1 < model.largest_batch <= 32


def test_every_figure_is_in_the_file_the_report_and_the_table(tmp_path):
    evaluate(_Brightness(), [_clip()], _labels(tmp_path), tmp_path / "out", _QUIET)
    metrics = _read(tmp_path / "out")
    others = {"threshold", "frames", "clips", "anomalous_frames", "model", "notes"}
    assert METRIC_TEXTS.keys() | others <= metrics.keys()
    assert metrics_table(metrics).row_count == len(METRIC_TEXTS)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(escape(text) in page for text in METRIC_TEXTS.values())


def test_the_report_fetches_nothing_and_escapes_names(tmp_path):
    name = '<img src="http://x/y">&$a$'
    evaluate(_Brightness(), [_clip(name)], None, tmp_path / "out", _QUIET)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<img src=" not in page
    assert "brightness <b>" not in page
    assert "&lt;img src=&quot;http://x/y&quot;&gt;&amp;$a$" in page
    assert not [link for link in re.findall(r'(?:src|href)="([^"]*)"', page) if not link.startswith("data:")]
    assert page.count("data:image/png;base64,") == len(list((tmp_path / "out").glob("*.png")))


def test_scores_are_causal_and_windows_begin_anew_with_each_clip(tmp_path):
    evaluate(_Brightness(), [_clip("cam 1"), _clip("b", frames=3)], None, tmp_path / "out", _QUIET)
    rows = _scores(tmp_path / "out")
    assert ",".join(rows[0]) == "camera_id,clip,frame,captured_at_ms,anomaly_score,threshold,is_anomalous"
    assert [(row["camera_id"], row["clip"]) for row in rows[::60]] == [("cam-1", "cam 1"), ("b", "b")]
    found = [float(row["anomaly_score"]) for row in rows]
    # 20 less its own tenth; 200 less a tenth of the patch before it, which at frame 20 was dark.
    assert found[0] == found[19] == found[60] == pytest.approx(18.0)
    assert found[20] == pytest.approx(198.0)
    assert found[21] == pytest.approx(180.0)
    assert [row["is_anomalous"] for row in rows[19:21]] == ["0", "1"]
    assert rows[20]["captured_at_ms"] == "2000"


def test_a_gap_begins_window_events_and_yardsticks_anew(tmp_path):
    bright = [_frame(i, 20, patch=180) for i in (5, 6, 20, 21)]
    footage = score_footage(_Brightness(), [_ListClip("a", (_frame(4, 20), *bright))], None, _QUIET)
    assert [stretch.indices.tolist() for stretch in footage.stretches] == [[4, 5, 6], [20, 21]]
    assert footage.stretches[1].scores.tolist() == pytest.approx([180.0, 180.0])
    # Two bright frames on each side of the gap are not three on end.
    assert not any(stretch.events for stretch in footage.stretches)


def test_worst_frames_are_apart_and_come_highest_first():
    clip = _ListClip("a", tuple(_frame(i, 20, patch=100 + i % 70) for i in range(200)))
    worst = score_footage(_Brightness(clip_frames=1), [clip], None, _QUIET).worst
    places = [frame.index for frame in worst]
    assert places[:2] == [69, 139]
    assert all(abs(a - b) >= 50 for a in places for b in places if a != b)
    assert [frame.score for frame in worst] == sorted((frame.score for frame in worst), reverse=True)


def test_without_labels_only_what_needs_none_is_measured(tmp_path):
    evaluate(_Brightness(), [_clip()], None, tmp_path / "out", _QUIET)
    metrics = _read(tmp_path / "out")
    assert all(metrics[name] is None for name in METRIC_TEXTS)
    assert metrics["anomalous_frames"] is None
    assert metrics["events"] == 1
    assert any("--labels" in note for note in metrics["notes"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "metrics.json", "scores.csv", "report.html", "timeline.png", "histogram.png", "worst_frames.png",
    }  # fmt: skip


def test_masks_give_pixel_figures(tmp_path):
    clip = _clip(frames=30, bright=range(10, 15))
    (tmp_path / "masks" / "a").mkdir(parents=True)
    for index in range(30):
        mask = np.zeros((32, 48), np.uint8)
        mask[8:24, 16:32] = 255 if index in range(10, 15) else 0
        cv2.imwrite(str(tmp_path / "masks" / "a" / f"{index}.png"), mask)
    evaluate(_Brightness(), [clip], tmp_path / "masks", tmp_path / "out", _QUIET)
    metrics = _read(tmp_path / "out")
    assert metrics["frame_auroc"] == 1.0
    assert metrics["pixel_auroc"] > 0.95
    assert metrics["aupro"] > 0.8


def test_pixel_figures_are_of_the_clips_that_have_masks_and_say_so(tmp_path):
    clips = [_clip("Test001"), _clip("Test002", bright=range(40, 45))]
    folder = tmp_path / "Test"
    (folder / "Test001_gt").mkdir(parents=True)
    (folder / "UCSDped1.m").write_text(
        "TestVideoFile{end+1}.gt_frame = [21:30];\nTestVideoFile{end+1}.gt_frame = [41:45];\n"
    )
    for index in range(60):
        mask = np.zeros((32, 48), np.uint8)
        mask[8:24, 16:32] = 255 if 20 <= index < 30 else 0
        cv2.imwrite(str(folder / "Test001_gt" / f"{index + 1:03d}.bmp"), mask)
    metrics = evaluate(_Brightness(), clips, folder, tmp_path / "out", _QUIET)
    assert metrics["frame_auroc"] == 1.0
    assert metrics["anomalous_frames"] == 15
    assert metrics["pixel_auroc"] > 0.99
    assert metrics["aupro"] > 0.9
    assert "pixel AUROC and AUPRO: of the 1 of 2 clips that have masks." in metrics["notes"]


def test_footage_of_one_kind_gives_notes_in_place_of_figures(tmp_path):
    evaluate(_Brightness(), [_clip(bright=())], _labels(tmp_path, ""), tmp_path / "out", _QUIET)
    metrics = _read(tmp_path / "out")
    assert metrics["frame_auroc"] is None
    assert metrics["event_recall"] is None
    assert metrics["false_events_per_hour"] == 0.0
    assert any("labelled normal" in note for note in metrics["notes"])


def test_a_single_frame_can_be_evaluated(tmp_path):
    evaluate(_Brightness(), [_clip(frames=1)], _labels(tmp_path, ""), tmp_path / "out", _QUIET)
    assert _read(tmp_path / "out")["frames"] == 1


def test_an_earlier_evaluation_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    for frames in (40, 50):
        evaluate(_Brightness(), [_clip(frames=frames)], None, tmp_path / "out", _QUIET)
    assert _read(tmp_path / "out")["frames"] == 50
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_files_are_never_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for wrong in (out, out / "thesis.txt", out / "thesis.txt" / "in-a-file"):
        with pytest.raises(ConfigError, match="--out"):
            evaluate(_Brightness(), [_clip()], None, wrong, _QUIET)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("at", [0, 37])
def test_a_frame_that_cannot_be_decoded_leaves_the_earlier_evaluation(tmp_path, at):
    out = tmp_path / "out"
    evaluate(_Brightness(), [_clip()], None, out, _QUIET)
    frames = list(_clip().held)
    frames[at] = SourceFrame(at, at * 100, frames[at].data[:50])
    with pytest.raises(FootageError, match=rf"clip a frame {at} "):
        evaluate(_Brightness(), [_ListClip("a", tuple(frames))], None, out, _QUIET)
    assert _read(out)["frames"] == 60
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_footage_without_an_end_or_a_frame_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no end"):
        evaluate(_Brightness(), open_source("/dev/video0"), None, tmp_path / "out", _QUIET)
    with pytest.raises(FootageError, match="no frame"):
        evaluate(_Brightness(), [_ListClip("a", ())], None, tmp_path / "out", _QUIET)


def test_labels_past_the_end_are_refused_but_not_where_a_range_was_taken_out(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for frame in _clip(frames=30).held:
        (folder / f"{frame.index}.png").write_bytes(frame.data)
    path = _labels(tmp_path, "a,18,29,light\na,30,35,light\n")
    with pytest.raises(LabelError, match="line 3: first_frame 30"):
        evaluate(_Brightness(), open_source(str(folder)), path, tmp_path / "out", _QUIET)
    evaluate(_Brightness(), open_source(f"{folder}#10:24"), path, tmp_path / "out", _QUIET)
    assert _read(tmp_path / "out")["anomalous_frames"] == 7


def test_a_run_and_its_bundle_are_measured_alike_and_as_the_runtime_scores(tiny_bundle, tmp_path):
    path = _labels(tmp_path, "footage,40,49,square\n")
    clips = open_source(str(tiny_bundle.footage))
    for name, folder in (("run", tiny_bundle.run), ("bundle", tiny_bundle.bundle)):
        evaluate(open_model(folder, "cpu"), clips, path, tmp_path / name, _QUIET)
    run, bundle = ([float(row["anomaly_score"]) for row in _scores(tmp_path / name)] for name in ("run", "bundle"))
    assert run == pytest.approx(bundle, abs=2e-3)
    detector = Detector(open_bundle(tiny_bundle.bundle), "cpu")
    preprocessing = detector.bundle.manifest.preprocessing
    frames = [decode_frame(frame.data, preprocessing, FrameLimits()) for frame in clips[0].frames()]
    scores, _ = detector.score(np.stack(frames)[:, None])
    assert bundle == pytest.approx(scores.tolist(), abs=1e-5)
    assert _read(tmp_path / "run")["frame_auroc"] == 1.0


def test_a_run_that_gives_no_finite_scores_is_refused(tiny_bundle, tmp_path, monkeypatch):
    from trainer import evaluate as evaluate_module

    checkpoint = evaluate_module.load_checkpoint(tiny_bundle.run)
    with torch.no_grad():
        checkpoint.detector.cell_mean[0, 0] = float("nan")
    monkeypatch.setattr(evaluate_module, "load_checkpoint", lambda _path: checkpoint)
    with pytest.raises(CheckpointError, match="not finite"):
        evaluate(
            open_model(tiny_bundle.run, "cpu"), open_source(str(tiny_bundle.footage)), None, tmp_path / "o", _QUIET
        )


def test_a_device_that_is_not_there_is_refused(tiny_bundle, monkeypatch):
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: False))
    with pytest.raises(ConfigError, match="cuda"):
        open_model(tiny_bundle.run, "cuda")
