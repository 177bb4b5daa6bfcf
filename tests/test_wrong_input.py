"""Wrong input on every command line: one line that names it, the exit code of the design, nothing half-written."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest

import exporter.__main__
import trainer.__main__
import worker.__main__
from contract.command_line import run_command_line
from tests.footage import TINY, write_scene
from trainer.checkpoint import load_tensors, save_atomically

ROOT = Path(__file__).resolve().parents[1]
APPS = {"trainer": trainer.__main__.app, "exporter": exporter.__main__.app, "worker": worker.__main__.app}
CLOSED = "127.0.0.1:1"


class Ran:
    """The pickle of a code path that must never run."""

    def __reduce__(self):
        return os.mkdir, ("code-ran",)


@pytest.fixture(scope="module")
def things(tmp_path_factory, tiny_bundle):
    """Everything that a wrong command line names, by the name it has in the table."""
    folder = tmp_path_factory.mktemp("things")
    write_scene(folder / "good", 30)
    write_scene(folder / "one", 1)
    write_scene(folder / "few", 20)
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("no picture")
    (folder / "damaged.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "notes.txt").write_text("no video")
    same = folder / "same"
    same.mkdir()
    for index in range(30):
        cv2.imwrite(str(same / f"{index}.png"), np.full((64, 64), 80, np.uint8))
    mixed = write_scene(folder / "mixed", 30)
    cv2.imwrite(str(mixed / "0009.png"), np.zeros((40, 50), np.uint8))
    both = write_scene(folder / "both", 2)
    shutil.copy(folder / "damaged.mp4", both / "a.mp4")
    write_scene(write_scene(folder / "beside", 2) / "inner", 2)
    cut = write_scene(folder / "cut", 30)
    (cut / "0004.png").write_bytes((cut / "0004.png").read_bytes()[:200])
    configs = {
        "unknown.yaml": {"learnig_rate": 0.1},
        "nested.yaml": {"model": {"hight": 64}},
        "type.yaml": {"batch": "many"},
        "presets.yaml": {"preset": ["fast"]},
        "range.yaml": {"learning_rate": -1},
        "sides.yaml": {"model": {"height": 65}},
        "lengths.yaml": {"epochs": 1, "minutes": 1},
        "list.yaml": [1, 2],
        "tiny.yaml": {**TINY, "epochs": 1},
        "budget.yaml": {**TINY, "epochs": 1, "false_events_per_day": 0.1},
        "extrapolate.yaml": {"extrapolate": "perhaps"},
        "duration.yaml": {"event_rule": {"min_frames": 0}},
        "topics.yaml": {"kafka": {"alerts_topic": "frames"}},
        "nothing-here.yaml": {"kafka": {"frames_topic": "nothing-here"}},
        "heartbeat.yaml": {"kafka": {"heartbeat_interval_ms": 20_000}},
        "open.yaml": {"http": {"host": "0.0.0.0"}},
        "fetch.yaml": {"kafka": {"fetch_bytes": 2**20}},
        "batch.yaml": {"batch": {"max_frames": 0}},
        "group.yaml": {"kafka": {"group_id": ""}},
        "reset.yaml": {"kafka": {"auto_offset_reset": "earlyest"}},
        "sasl.yaml": {"kafka": {"sasl_mechanism": "PLAIN"}},
        "password.yaml": {
            "kafka": {
                "security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "me",
                "sasl_password_file": str(folder / "password"),
            }
        },
        "same-topics.yaml": {"topic": {"alerts_topic": "a", "feedback_topic": "a"}},
        "many-frames.yaml": {"topic": {"max_frames": 1e9}},
        "no-stretch.yaml": {"topic": {"stretch_seconds": 0}},
        "margin.yaml": {"topic": {"margin_seconds": -1}},
        "quick.yaml": {
            **TINY, "epochs": 1, "kafka": {"bootstrap_timeout_ms": 1000},
            "topic": {"footage_cache": str(tmp_path_factory.mktemp("kept"))},
        },
        "maps.yaml": {"kafka": {"scores_maps": True}},
        "window.yaml": {"drift": {"window_seconds": 5}},
        "alarms.yaml": {"drift": {"false_alarms_per_year": 0}},
        "zones.yaml": {"zones": [[[0, 0], [1, 0], [2, 2]]]},
        "signed.yaml": {"bundle_public_key": "notes.txt"},
        "down.yaml": {"kafka": {"bootstrap_servers": CLOSED, "bootstrap_timeout_ms": 1000}},
    }  # fmt: skip
    for name, content in configs.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "broken.yaml").write_text("a: [1, 2\nb: }")
    (folder / "date.yaml").write_text("batch: 2001-99-99")
    (folder / "deep.yaml").write_text("[" * 20_000)
    (folder / "binary.yaml").write_bytes(b"batch: \xff")
    (folder / "undisturbed.yaml").write_text("pseudo_anomalies: []")
    (folder / "at-rest.yaml").write_text("{preset: still, pseudo_anomalies: [faster]}")
    (folder / "crops.yaml").write_text("crop_px: 36\nmodel: {widths: [8, 8]}")
    (folder / "code.yaml").write_text("batch: !!python/object/apply:os.mkdir [code-ran]")
    (folder / "password").write_text("secret")
    (folder / "password").chmod(0o644)
    shutil.copytree(tiny_bundle.run, folder / "run")
    shutil.copytree(tiny_bundle.bundle, folder / "bundle")
    _spoil_runs(folder)
    _spoil_bundles(folder)
    (folder / "labels.csv").write_text("clip,frame,label\nother,0,1\n")
    (folder / "header.csv").write_text("a,b\n1,2\n")
    (folder / "word.csv").write_text("clip,frame,label\ngood,zero,1\n")
    columns = "camera_id,clip,frame,captured_at_ms,anomaly_score,threshold,is_anomalous\n"
    (folder / "no-scores.csv").write_text(columns)
    (folder / "wrong-scores.csv").write_text(columns + "door,door,first,0,1.5,3.0,0\n")
    (folder / "in-use").mkdir()
    (folder / "in-use" / "mine.txt").write_text("keep")
    return folder


def _spoil_runs(folder):
    for name in ("truncated", "pickled", "future", "no-samples"):
        shutil.copytree(folder / "run", folder / f"run-{name}")
    checkpoint = folder / "run-truncated" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    (folder / "run-pickled" / "checkpoint.pt").write_bytes(pickle.dumps({"format": Ran()}))
    content = load_tensors(folder / "run" / "checkpoint.pt")
    save_atomically(folder / "run-future" / "checkpoint.pt", {**content, "version": 7})
    (folder / "run-no-samples" / "samples.npz").unlink()


def _spoil_bundles(folder):
    names = ("truncated", "no-detector", "uncalibrated", "future", "extra", "symlink", "no-json", "pickled")
    for name in names:
        shutil.copytree(folder / "bundle", folder / f"bundle-{name}")
    detector = folder / "bundle-truncated" / "detector.onnx"
    detector.write_bytes(detector.read_bytes()[:-10])
    (folder / "bundle-no-detector" / "detector.onnx").unlink()
    for name, change in (
        ("uncalibrated", lambda content: content.pop("calibration")),
        ("future", lambda content: content.update(schema_version=2)),
    ):
        manifest = folder / f"bundle-{name}" / "manifest.json"
        content = json.loads(manifest.read_text())
        change(content)
        manifest.write_text(json.dumps(content))
    (folder / "bundle-extra" / "weights.bin").write_bytes(b"x")
    encoder = folder / "bundle-symlink" / "encoder.onnx"
    encoder.unlink()
    encoder.symlink_to(folder / "bundle" / "encoder.onnx")
    (folder / "bundle-no-json" / "manifest.json").write_text("{")
    code = pickle.dumps({"model": Ran()})
    (folder / "bundle-pickled" / "detector.onnx").write_bytes(code)
    (folder / "bundle-pickled" / "encoder.onnx").write_bytes(code)
    manifest = folder / "bundle-pickled" / "manifest.json"
    content = json.loads(manifest.read_text())
    for name in ("detector.onnx", "encoder.onnx"):
        content["files"][name] = {"sha256": hashlib.sha256(code).hexdigest(), "size_bytes": len(code)}
    manifest.write_text(json.dumps(content))


FIT = "trainer fit {0} --out out --config tiny.yaml"
RUN = "worker run --bundle bundle --bootstrap-servers 127.0.0.1:1"
LONG = "n" * 300
TABLE = [
    # trainer: what it is asked
    ("trainer fit", 2, "source"),
    ("trainer fit good", 2, "--out"),
    ("trainer teach", 2, "teach"),
    ("trainer fit good --out out --speed 3", 2, "--speed"),
    ("trainer fit good --out out --epochs many", 2, "--epochs"),
    ("trainer fit good --out out --epochs 0", 2, "epochs"),
    ("trainer fit good --out out --minutes -1", 2, "minutes"),
    ("trainer fit good --out out --minutes nan", 2, "minutes"),
    ("trainer fit good --out out --epochs 1 --minutes 1", 2, "not both"),
    ("trainer fit good --out out --seed -1", 2, "seed"),
    ("trainer fit good --out out --preset quick", 2, "preset"),
    ("trainer fit good --out out --config undisturbed.yaml", 2, "model.comparator learns from pseudo_anomalies"),
    ("trainer fit good --out out --config at-rest.yaml", 2, "set it to null, or these to some of foreign, covered"),
    ("trainer fit good --out out --config crops.yaml", 2, "crop_px must be a multiple of 8"),
    ("trainer fit good --out out --device tpu", 2, "device"),
    ("trainer fit good --out out --config none.yaml", 2, "none.yaml"),
    ("trainer fit good --out out --config broken.yaml", 2, "not YAML"),
    ("trainer fit good --out out --config list.yaml", 2, "top level"),
    ("trainer fit good --out out --config date.yaml", 2, "not YAML"),
    ("trainer fit good --out out --config deep.yaml", 2, "not YAML"),
    ("trainer fit good --out out --config binary.yaml", 2, "not UTF-8"),
    ("trainer fit good --out out --config code.yaml", 2, "not YAML"),
    ("trainer fit good --out out --config good", 2, "cannot be read"),
    ("trainer fit good --out out --config unknown.yaml", 2, "learnig_rate"),
    ("trainer fit good --out out --config nested.yaml", 2, "model.hight"),
    ("trainer fit good --out out --config type.yaml", 2, "batch"),
    ("trainer fit good --out out --config presets.yaml", 2, "preset"),
    ("trainer fit good --out out --config range.yaml", 2, "learning_rate"),
    ("trainer fit good --out out --config sides.yaml", 2, "height must be a multiple"),
    ("trainer fit good --out out --config lengths.yaml", 2, "not both"),
    ("trainer fit good --out out --false-events-per-day 0", 2, "false_events_per_day"),
    ("trainer fit good --out out --false-events-per-day nan", 2, "false_events_per_day"),
    ("trainer fit good --out out --false-events-per-day 90000", 2, "false_events_per_day"),
    ("trainer fit good --out out --false-events-per-day few", 2, "--false-events-per-day"),
    ("trainer fit good --out out --extrapolate=perhaps", 2, "--extrapolate"),
    ("trainer fit good --out out --config extrapolate.yaml", 2, "extrapolate"),
    ("trainer fit good --out out --config duration.yaml", 2, "event_rule.min_frames"),
    (FIT.format("good") + " --false-events-per-day 1", 2, "72 h held out, 360 h in all"),
    (FIT.format("good") + " --false-events-per-day 86400", 2, "--extrapolate"),
    ("trainer fit good --out out --config budget.yaml", 2, "720 h held out"),
    ("trainer fit good --out in-use --config tiny.yaml", 2, "other files"),
    ("trainer fit good --out run --config tiny.yaml", 2, "finished run"),
    ("trainer fit good --out notes.txt --config tiny.yaml", 2, "is a file"),
    ("trainer fit good --out notes.txt/run --config tiny.yaml", 2, "notes.txt"),
    (f"trainer fit good --out {LONG} --config tiny.yaml", 2, "too long"),
    # trainer: its footage
    (FIT.format("''"), 2, "SOURCE is empty"),
    (FIT.format("nowhere"), 2, "no such file or folder"),
    (FIT.format("empty"), 2, "no video"),
    (FIT.format("texts"), 2, "no image"),
    (FIT.format("notes.txt"), 2, ".txt"),
    (FIT.format("both"), 2, "both videos and images"),
    (FIT.format("damaged.mp4"), 1, "damaged.mp4"),
    (FIT.format("empty.mp4"), 1, "empty.mp4"),
    (FIT.format("one"), 1, "1 frames"),
    (FIT.format("few"), 1, "20 frames"),
    (FIT.format("same"), 1, "identical"),
    (FIT.format("mixed"), 2, "frame 9 is 50x40"),
    (FIT.format("cut"), 1, "frame 4"),
    (FIT.format("good#5:1"), 2, "must rise"),
    (FIT.format("good#a:b"), 2, "frame ranges"),
    (FIT.format("good#0:40"), 1, "ends at frame 29, before frame 40"),
    (FIT.format("n" * 300), 2, "no such file or folder"),
    (FIT.format("good#0:3,2:9"), 2, "not overlap"),
    (FIT.format("rtsp://127.0.0.1:1/door"), 2, "no end"),
    (FIT.format("kafka://"), 2, "kafka://HOST:PORT/TOPIC"),
    (FIT.format("kafka://host/frames?camera=a"), 2, "kafka://HOST:PORT/TOPIC"),
    (FIT.format("kafka://127.0.0.1:1/frames"), 2, "camera"),
    (FIT.format("kafka://127.0.0.1:1/frames?camera=a&cam=b"), 2, "'cam'"),
    (FIT.format("kafka://127.0.0.1:1/frames?camera=../a"), 2, "camera="),
    (FIT.format("kafka://127.0.0.1:1/frames?camera=a&from=noon"), 2, "ISO 8601"),
    (FIT.format("kafka://127.0.0.1:1/frames?camera=a&from=9&to=5"), 2, "earlier"),
    (FIT.format("kafka://127.0.0.1:1/frames?camera=a&from=0001-01-01"), 2, "ISO 8601"),
    (FIT.format("kafka://me:pw@127.0.0.1:1/frames?camera=a"), 2, "password"),
    (FIT.format("kafka://kafka.example:9092/frames?camera=a"), 2, "allow_plaintext=true"),
    (FIT.format("kafka://kafka.example:9092/frames?camera=a"), 2, "set kafka.security_protocol to SSL"),
    ("trainer fit good --out out --config sasl.yaml", 2, "kafka: sasl_mechanism belongs with security_protocol"),
    ("trainer fit good --out out --config password.yaml", 2, "chmod 600"),
    ("trainer fit good --out out --config group.yaml", 2, "kafka.group_id"),
    ("trainer fit good --out out --config same-topics.yaml", 2, "topic: alerts_topic and feedback_topic must differ"),
    ("trainer fit good --out out --config many-frames.yaml", 2, "topic.max_frames"),
    ("trainer fit good --out out --config no-stretch.yaml", 2, "topic.stretch_seconds"),
    ("trainer fit good --out out --config margin.yaml", 2, "topic.margin_seconds"),
    ("trainer evaluate run 'kafka://kafka.example:9092/frames?camera=a' --out o", 2, "set kafka.security_protocol"),
    ("trainer evaluate run 'kafka://127.0.0.1:1/frames?camera=a' --out o --config unknown.yaml", 2, "learnig_rate"),
    (
        "trainer evaluate run 'kafka://127.0.0.1:1/frames?camera=a' --out o --config quick.yaml", 1,
        "no Kafka broker answers at 127.0.0.1:1",
    ),
    ("trainer fit 'kafka://127.0.0.1:1/frames?camera=a' --out out --config quick.yaml", 1, "no Kafka broker answers"),
    (FIT.format("beside"), 2, "folders of footage"),
    # trainer compare
    ("trainer compare bundle", 2, "CHALLENGER"),
    ("trainer compare bundle bundle", 2, "--out"),
    ("trainer compare nowhere bundle --normal good --out out", 2, "no such folder"),
    ("trainer compare bundle empty --normal good --out out", 2, "checkpoint.pt"),
    ("trainer compare bundle bundle --normal nowhere --out out", 2, "nowhere"),
    ("trainer compare bundle bundle --normal good --out good", 2, "in use"),
    ("trainer compare bundle bundle --judged good --out out", 2, "kafka://HOST:PORT"),
    (f"trainer compare bundle bundle --judged kafka://{CLOSED}/frames?camera=a --out out", 1, "no Kafka broker"),
    # trainer retrain
    ("trainer retrain", 2, "camera: is required"),
    ("trainer retrain --camera a/b", 2, "camera: "),
    ("trainer retrain --camera a --config none.yaml", 2, "none.yaml"),
    ("trainer retrain --camera a --config unknown.yaml", 2, "learnig_rate"),
    ("trainer retrain --camera a --to soon", 2, "--to: 'soon' is no ISO 8601 time"),
    ("trainer retrain --camera a --registry ftp://a", 2, "ftp"),
    # trainer drift
    ("trainer drift nowhere good", 2, "no such folder"),
    ("trainer drift empty good", 2, "checkpoint.pt"),
    ("trainer drift run good --device tpu", 2, "'tpu' is not one of"),
    ("trainer drift run good", 2, "holds no blocks of normal footage"),
    # trainer evaluate
    ("trainer evaluate nowhere good --out out", 2, "no such folder"),
    ("trainer evaluate empty good --out out", 2, "checkpoint.pt"),
    ("trainer evaluate run good --out out --labels none.csv", 2, "none.csv"),
    ("trainer evaluate run good --out out --labels labels.csv", 2, "'other'"),
    ("trainer evaluate run good --out out --labels header.csv", 2, "header"),
    ("trainer evaluate run good --out out --labels word.csv", 2, "line 2"),
    ("trainer evaluate run good --out in-use", 2, "is in use"),
    ("trainer evaluate run good --out notes.txt/run", 2, "lies in a file"),
    (f"trainer evaluate run good --out {LONG}", 2, "too long"),
    ("trainer evaluate run cut --out out", 1, "frame 4"),
    ("trainer evaluate bundle-truncated good --out out", 2, "detector.onnx"),
    # exporter
    ("exporter build", 2, "run"),
    ("exporter build nowhere --out out", 2, "no such folder"),
    ("exporter build empty --out out", 2, "checkpoint.pt"),
    ("exporter build run-truncated --out out", 2, "damaged"),
    ("exporter build run-pickled --out out", 2, "damaged or holds more than weights"),
    ("exporter build run-future --out out", 2, "version 7"),
    ("exporter build run-no-samples --out out", 2, "samples.npz"),
    ("exporter build run --out in-use", 2, "is in use"),
    ("exporter build run --out notes.txt/run", 2, "lies in a file"),
    ("exporter build run --out .", 2, "current folder"),
    (f"exporter build run --out {LONG}", 2, "too long"),
    ("exporter build run --out bundle", 2, "--overwrite"),
    ("exporter build run --out out --precision fp8", 2, "fp8"),
    ("exporter build run --out out --name ../up", 2, "--name"),
    ("exporter sign bundle", 2, "--key"),
    ("exporter sign bundle --key none.pem", 2, "cannot be read"),
    ("exporter sign bundle --key notes.txt", 2, "openssl genpkey"),
    ("exporter sign bundle-truncated --key notes.txt", 2, "detector.onnx"),
    # worker without Kafka
    ("worker score", 2, "bundle"),
    ("worker score nowhere good --out scores.csv", 2, "no such folder"),
    ("worker score empty good --out scores.csv", 2, "manifest.json"),
    ("worker score bundle-truncated good --out scores.csv", 2, "bytes"),
    ("worker score bundle-no-detector good --out scores.csv", 2, "missing"),
    ("worker score bundle-uncalibrated good --out scores.csv", 2, "not calibrated"),
    ("worker score bundle-future good --out scores.csv", 2, "schema_version"),
    ("worker score bundle-extra good --out scores.csv", 2, "weights.bin"),
    ("worker score bundle-symlink good --out scores.csv", 2, "link"),
    ("worker score bundle-no-json good --out scores.csv", 2, "not JSON"),
    ("worker score bundle-pickled good --out scores.csv --provider cpu", 2, "refuses it"),
    ("worker score bundle good --out nowhere/scores.csv", 2, "folder is missing"),
    ("worker score bundle good --out scores.csv --events nowhere/e.jsonl", 2, "folder is missing"),
    ("worker score bundle good --out scores.csv --camera-id 'my door'", 2, "--camera-id"),
    ("worker score bundle good --out scores.csv --events scores.csv", 2, "--events"),
    ("worker score bundle good --out scores.csv --events empty/../scores.csv", 2, "--events"),
    (f"worker score bundle good --out {LONG}", 2, "too long"),
    ("worker score bundle good --out notes.txt/scores.csv", 2, "folder"),
    ("worker score bundle rtsp://127.0.0.1:1/door --out scores.csv", 2, "no end"),
    ("worker score bundle 'kafka://kafka.example:9092/frames?camera=a' --out scores.csv", 2, "allow_plaintext=true"),
    ("worker score bundle beside --out scores.csv", 2, "both images (0000.png) and folders of footage (inner)"),
    ("worker score bundle good --out scores.csv --threshold nan", 2, "--threshold"),
    ("worker score bundle good --out scores.csv --threshold 1000", 2, "--threshold"),
    ("worker embed bundle-pickled good --out out --provider cpu", 2, "refuses it"),
    ("worker embed bundle cut --out out", 1, "frame 4"),
    ("worker embed nowhere good --out out", 2, "no such folder"),
    ("worker denoise bundle-truncated good --out out", 2, "detector.onnx"),
    ("worker denoise bundle good --out notes.txt", 2, "in use"),
    ("worker score bundle nowhere --out scores.csv", 2, "no such file or folder"),
    ("worker score bundle cut --out scores.csv", 1, "frame 4"),
    ("worker score bundle damaged.mp4 --out scores.csv", 1, "damaged.mp4"),
    ("worker score bundle good --out empty", 2, "is a folder"),
    ("worker score bundle good --out scores.csv --batch 0", 2, "batch"),
    ("worker score bundle good --out scores.csv --provider tpu", 2, "--provider"),
    ("worker embed bundle good --out in-use", 2, "in use"),
    ("worker rules --scores none.csv", 2, "none.csv"),
    ("worker rules --scores good", 2, "good"),
    ("worker rules --scores header.csv", 2, "expected the columns"),
    ("worker rules --scores wrong-scores.csv", 2, "line 2"),
    ("worker rules --scores no-scores.csv", 1, "holds no score"),
    ("worker rules --scores no-scores.csv --topic scores", 2, "not both"),
    ("worker rules --scores no-scores.csv --threshold high", 2, "--threshold 'high'"),
    ("worker rules --scores no-scores.csv --threshold 3:2:1", 2, "--threshold '3:2:1'"),
    ("worker rules --scores no-scores.csv --threshold 2:3:0.01", 2, "101 thresholds"),
    ("worker rules --scores no-scores.csv --release-threshold nan", 2, "--release-threshold"),
    ("worker rules --scores no-scores.csv --min-frames 0", 2, "--min-frames"),
    ("worker rules --scores no-scores.csv --gap-frames -1", 2, "--gap-frames"),
    ("worker rules --scores no-scores.csv --false-events-per-day 1", 2, "needs --bundle"),
    ("worker rules --scores no-scores.csv --false-events-per-day 0 --bundle bundle", 2, "--false-events-per-day 0"),
    ("worker rules --scores no-scores.csv --false-events-per-day nan --bundle bundle", 2, "--false-events-per-day nan"),
    ("worker rules --scores no-scores.csv --bundle bundle-truncated", 2, "detector.onnx"),
    ("worker rules --scores no-scores.csv --bundle nowhere", 2, "no such folder"),
    ("worker rules --scores no-scores.csv --zones zones.yaml", 2, "--zones needs anomaly maps"),
    ("worker rules --zones none.yaml", 2, "none.yaml"),
    ("worker rules --zones labels.csv", 2, "labels.csv"),
    ("worker rules --zones zones.yaml", 2, "--zones zones.yaml: zones.0.2"),
    ("worker rules --camera-id 'my door'", 2, "--camera-id"),
    ("worker rules --from noon", 2, "--from: 'noon'"),
    ("worker rules --to 2026-13-01", 2, "--to: '2026-13-01'"),
    ("worker rules --from 9 --to 5", 2, "--from must be earlier"),
    ("worker rules --topic 'my scores'", 2, "kafka.scores_topic"),
    ("worker rules --scores no-scores.csv --events nowhere/e.jsonl", 2, "folder is missing"),
    ("worker rules --scores no-scores.csv --plot nowhere/p.png", 2, "folder is missing"),
    ("worker rules --scores no-scores.csv --plot p.jpg", 2, "--plot p.jpg"),
    ("worker rules --scores no-scores.csv --events p.png --plot p.png", 2, "--plot p.png"),
    ("worker rules --config down.yaml", 1, "no Kafka broker answers"),
    ("worker rules --config unknown.yaml", 2, "learnig_rate"),
    ("worker run --bundle bundle --config maps.yaml", 2, "scores_maps belongs with scores_topic"),
    ("worker embed bundle good --out notes.txt/run", 2, "lies in a file"),
    (f"worker embed bundle good --out {LONG}", 2, "too long"),
    ("worker denoise bundle rtsp://127.0.0.1:1/door --out out", 2, "no end"),
    ("worker denoise bundle cut --out out", 1, "frame 4"),
    # worker with Kafka
    ("worker run", 2, "bundle"),
    ("worker run --bundle bundle --config none.yaml", 2, "none.yaml"),
    ("worker run --bundle bundle --config unknown.yaml", 2, "learnig_rate"),
    ("worker run --bundle bundle --config topics.yaml", 2, "must differ"),
    ("worker run --bundle bundle --config heartbeat.yaml", 2, "third"),
    ("worker run --bundle bundle --config open.yaml", 2, "allow_all_interfaces"),
    ("worker run --bundle bundle --config fetch.yaml", 2, "fetch_bytes"),
    ("worker run --bundle bundle --config batch.yaml", 2, "max_frames"),
    ("worker run --bundle bundle --config window.yaml", 2, "drift.window_seconds"),
    ("worker run --bundle bundle --config alarms.yaml", 2, "drift.false_alarms_per_year"),
    ("worker run --bundle bundle --config group.yaml", 2, "group_id"),
    ("worker run --bundle bundle --config reset.yaml", 2, "auto_offset_reset"),
    ("worker run --bundle bundle --config sasl.yaml", 2, "security_protocol"),
    ("worker run --bundle bundle --config password.yaml", 2, "readable by others"),
    ("worker run --bundle bundle --bootstrap-servers kafka.example:9092", 2, "allow_plaintext"),
    ("worker run --bundle bundle --bootstrap-servers nonsense", 2, "bootstrap_servers"),
    ("worker run --bundle bundle --threshold nan", 2, "threshold"),
    ("worker run --bundle bundle --http-port 99999", 2, "http.port"),
    ("worker run --bundle bundle --from noon", 2, "--from: 'noon' is no ISO 8601 time"),
    ("worker run --bundle bundle --from ''", 2, "--from: '' is no ISO 8601 time"),
    ("worker run --bundle bundle --to 99999-01-01", 2, "--to: '99999-01-01' is no ISO 8601 time"),
    ("worker run --bundle bundle --from 9 --to 9", 2, "--from must be earlier than --to"),
    ("worker run --bundle bundle --from 9 --lead-in -1", 2, "--lead-in"),
    ("worker run --bundle bundle --from 9 --lead-in nan", 2, "--lead-in"),
    ("worker run --bundle bundle --to 9 --lead-in 1", 2, "--lead-in lies before --from"),
    ("worker run --bundle bundle --to 9 --group-id framewatch", 2, "--group-id framewatch is the live worker's"),
    ("worker run --bundle bundle --from 9 --alerts-topic alerts", 2, "--alerts-topic alerts is the live worker's"),
    ("worker run --bundle bundle --from 9 --scores-topic alerts", 2, "--scores-topic alerts is the live worker's"),
    ("worker run --bundle bundle --from 9 --alerts-topic 'my alerts'", 2, "kafka.alerts_topic"),
    ("worker run --bundle bundle --challenger nowhere", 2, "bundle nowhere: no such folder"),
    ("worker run --bundle bundle --challenger bundle-truncated", 2, "detector.onnx"),
    ("worker run --bundle bundle --challenger bundle --challenger-scores-topic frames", 2, "must differ"),
    ("worker run --bundle bundle --challenger-scores-topic 'my scores'", 2, "kafka.challenger_scores_topic"),
    ("worker run --bundle bundle --to 9 --challenger-scores-topic alerts", 2, "alerts is the live worker's"),
    (f"{RUN} --challenger bundle --config down.yaml", 1, "no Kafka broker answers"),
    ("worker run --bundle bundle --from 9 --config down.yaml", 1, "no Kafka broker answers"),
    ("worker check --bundle bundle --config date.yaml", 2, "not YAML"),
    ("worker check", 2, "bundle: is required"),
    ("worker alerts --idle-seconds -1", 2, "--idle-seconds"),
    ("worker alerts --config topics.yaml", 2, "must differ"),
    ("worker publish good", 2, "camera"),
    ("worker publish good --camera-id door --fps nan", 2, "--fps"),
    ("worker run --bundle bundle --provider tpu", 2, "provider"),
    ("worker run --bundle bundle-truncated", 2, "detector.onnx"),
    ("worker run --bundle bundle --config signed.yaml", 2, "no public key"),
    ("worker run --bundle bundle --config down.yaml", 1, "no Kafka broker answers"),
    ("worker alerts --config down.yaml", 1, "no Kafka broker answers"),
    ("worker publish good --camera-id door --config down.yaml", 1, "no Kafka broker answers"),
    ("worker publish good --camera-id 'my door' --config down.yaml", 2, "--camera-id"),
    ("worker publish good --camera-id door --fps 0", 2, "--fps"),
    ("worker publish good --camera-id door --fps 5 --max-speed", 2, "not both"),
    ("worker publish nowhere --camera-id door", 2, "no such file or folder"),
    ("worker publish good --camera-id door --loop 0", 2, "loop"),
]  # fmt: skip


def run_line(line):
    """Run a command line in this process; its exit code and what it said on standard error."""
    import shlex

    program, *arguments = shlex.split(line)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = run_command_line(APPS[program], program, arguments)
    return code, said.getvalue()


def complaint_of(program, said):
    """The one line that is the complaint: it starts with the program's name and ends what was said."""
    lines = [line for line in said.splitlines() if line.startswith(f"{program}: ")]
    assert len(lines) == 1, said
    assert said.splitlines()[-1] == lines[0], said
    return lines[0]


def tree(folder):
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*")}


@pytest.mark.parametrize(("line", "code", "word"), TABLE, ids=[row[0] for row in TABLE])
def test_a_wrong_command_line_is_one_line_and_leaves_nothing(things, monkeypatch, line, code, word):
    monkeypatch.chdir(things)
    before = tree(things)
    found, said = run_line(line)
    complaint = complaint_of(line.split()[0], said)
    assert found == code, complaint
    assert word in complaint
    assert "Traceback" not in said
    assert tree(things) == before


def test_the_table_is_long_enough():
    assert len(TABLE) >= 40


@pytest.mark.parametrize("name", ["FRAMEWATCH_BUNDEL", "FRAMEWATCH_KAFKA__GROUPID", "FRAMEWATCH_KAFKA"])
def test_an_unknown_or_wrong_variable_is_named(things, monkeypatch, name):
    monkeypatch.chdir(things)
    monkeypatch.setenv(name, "1")
    code, said = run_line(RUN)
    assert code == 2
    assert name in said or name.lower().removeprefix("framewatch_") in said


def test_cuda_that_is_not_there_is_refused(things, monkeypatch):
    monkeypatch.chdir(things)
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA device")
    for line in (
        f"{RUN} --provider cuda",
        "trainer fit good --out out --device cuda",
        "worker score bundle good --out s --provider cuda",
    ):
        code, said = run_line(line)
        assert code == 2, said
        assert "cuda" in complaint_of(line.split()[0], said)


def test_a_taken_http_port_is_named(things, monkeypatch):
    monkeypatch.chdir(things)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = run_line(f"{RUN} --http-port {taken.getsockname()[1]}")
    assert code == 2
    assert "choose another http.port" in complaint_of("worker", said)


def test_a_password_is_never_repeated(things, monkeypatch):
    monkeypatch.chdir(things)
    monkeypatch.setenv("FRAMEWATCH_KAFKA__SASL_PASSWORD", "hunter2hunter2")
    _, said = run_line(f"{RUN} --config sasl.yaml")
    assert "hunter2" not in said


@pytest.mark.broker
def test_a_topic_that_is_not_there_is_named(things, monkeypatch, broker):
    monkeypatch.chdir(things)
    servers = f"--bootstrap-servers {broker.bootstrap_servers}"
    for line in (
        # Whatever topics the broker's other users made: this one is named here alone.
        f"worker run --bundle bundle --http-port 0 --config nothing-here.yaml {servers}",
        f"worker run --bundle bundle --from 9 --config nothing-here.yaml {servers}",
        f"worker alerts --topic nothing-here {servers}",
        f"worker rules --topic nothing-here {servers}",
        f"worker publish good --camera-id door --topic nothing-here {servers}",
        f"trainer fit 'kafka://{broker.bootstrap_servers}/nothing-here?camera=a' --out out --config quick.yaml",
    ):
        code, said = run_line(line)
        assert code in (1, 2)
        complaint = complaint_of(line.split()[0], said)
        assert "nothing-here" in complaint
        assert "is not on" in complaint
    assert not (things / "out").exists()


def test_check_says_one_line_a_thing(things, monkeypatch, capsys):
    monkeypatch.chdir(things)
    monkeypatch.setenv("FRAMEWATCH_KAFKA__BOOTSTRAP_TIMEOUT_MS", "1000")
    assert (
        run_command_line(APPS["worker"], "worker", ["check", "--bundle", "bundle", "--bootstrap-servers", CLOSED]) == 1
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["settings:", "bundle:", "provider:", "broker:"]
    assert [line.split()[0] for line in lines] == ["ok", "ok", "ok", "FAIL"]


def test_check_looks_at_a_challenger_too(things, monkeypatch, capsys):
    monkeypatch.chdir(things)
    monkeypatch.setenv("FRAMEWATCH_KAFKA__BOOTSTRAP_TIMEOUT_MS", "1000")
    checked = {}
    for challenger in ("bundle", "bundle-truncated"):
        arguments = ["check", "--bundle", "bundle", "--challenger", challenger, "--bootstrap-servers", CLOSED]
        code = run_command_line(APPS["worker"], "worker", arguments)
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        checked[challenger] = code, {line[1]: line[0] for line in lines}
    well = {"settings:": "ok", "bundle:": "ok", "provider:": "ok", "challenger:": "ok", "cameras:": "ok"}
    assert checked["bundle"] == (1, {**well, "broker:": "FAIL"})
    assert checked["bundle-truncated"] == (2, {**well, "challenger:": "FAIL", "cameras:": "FAIL", "broker:": "FAIL"})
