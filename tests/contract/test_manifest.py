"""A bundle is what its manifest says, or it is refused with the cause named; `test_alert` holds more spoilt graphs."""

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from contract.errors import BundleError, ConfigError
from contract.manifest import GRAPH_NAMES, open_bundle
from contract.runtime import Autoencoder, Detector, gpu_present


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """A copy of a real bundle, to spoil."""
    return shutil.copytree(tiny_bundle.bundle, tmp_path / "bundle")


def edit_manifest(bundle, change):
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_listed(bundle, name, data):
    """Replace a file and make the manifest's digest match."""
    (bundle / name).write_bytes(data)
    digest = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    edit_manifest(bundle, lambda content: content["files"].update({name: digest}))


def test_a_real_bundle_opens_and_its_halves_and_detector_run(tiny_bundle):
    bundle = open_bundle(tiny_bundle.bundle)
    detector = Detector(bundle, "cpu")
    clips = np.random.default_rng(0).integers(0, 255, (3, *detector.input_shape), dtype=np.uint8)
    scores, maps = detector.score(clips)
    assert scores == pytest.approx(maps.max((1, 2)))
    halves = Autoencoder(bundle, "cpu")
    shape = bundle.manifest.shape
    images = np.zeros((2, shape.clip_frames, 64, 64), np.float32)
    latents = halves.encode(images)
    assert latents.shape == (2, *shape.latent)
    assert halves.decode(latents).shape == images.shape


def test_the_digest_is_that_of_the_manifest(tiny_bundle):
    data = (tiny_bundle.bundle / "manifest.json").read_bytes()
    assert open_bundle(tiny_bundle.bundle).digest == f"sha256:{hashlib.sha256(data).hexdigest()}"


def empty_folder(bundle):
    shutil.rmtree(bundle)
    bundle.mkdir()


def flip_a_bit(bundle):
    data = bytearray((bundle / "detector.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "detector.onnx").write_bytes(data)


def link_outside(bundle, name, *, hard=False):
    elsewhere = bundle.parent / name
    (bundle / name).rename(elsewhere)
    if hard:
        (bundle / name).hardlink_to(elsewhere)
    else:
        (bundle / name).symlink_to(elsewhere)


def put_a_folder(bundle):
    (bundle / "encoder.onnx").unlink()
    (bundle / "encoder.onnx").mkdir()


def put_a_fifo(bundle):
    (bundle / "encoder.onnx").unlink()
    os.mkfifo(bundle / "encoder.onnx")


def list_a_file_outside(bundle, name):
    data = b"outside"
    (bundle.parent / "outside.bin").write_bytes(data)
    digest = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    edit_manifest(bundle, lambda content: content["files"].update({name: digest}))


def edited(**fields):
    return lambda bundle: edit_manifest(bundle, lambda content: content.update(fields))


TAMPERED = {
    "no folder": (shutil.rmtree, "no such folder"),
    "empty folder": (empty_folder, r"no manifest\.json"),
    "no graph": (lambda b: (b / "decoder.onnx").unlink(), r"decoder\.onnx is missing"),
    "no card": (lambda b: (b / "MODEL_CARD.md").unlink(), r"MODEL_CARD\.md is missing"),
    "truncated graph": (lambda b: os.truncate(b / "encoder.onnx", 100), "has 100 bytes"),
    "empty graph": (lambda b: os.truncate(b / "encoder.onnx", 0), "has 0 bytes"),
    "one bit": (flip_a_bit, "differs from its digest"),
    "unlisted file": (lambda b: (b / "weights.bin").write_bytes(b"x"), r"weights\.bin, which its manifest does not"),
    "unlisted hidden file": (lambda b: (b / ".x").write_bytes(b"x"), r"\.x, which its manifest does not list"),
    "symbolic link": (lambda b: link_outside(b, "encoder.onnx"), "link"),
    "hard link": (lambda b: link_outside(b, "encoder.onnx", hard=True), "link"),
    "manifest a link": (lambda b: link_outside(b, "manifest.json"), "link"),
    "folder in place of a graph": (put_a_folder, "no regular file"),
    "pipe in place of a graph": (put_a_fifo, "no regular file"),
    "file above": (lambda b: list_a_file_outside(b, "../outside.bin"), "not a plain file name"),
    "file at the root": (lambda b: list_a_file_outside(b, str(b.parent / "outside.bin")), "not a plain file name"),
    "NUL in a name": (lambda b: list_a_file_outside(b, "a\0b"), "not a plain file name"),
    "surrogate in a name": (lambda b: list_a_file_outside(b, "a\ud800"), "Invalid JSON"),
    "end of line in a name": (lambda b: list_a_file_outside(b, "a\nb"), "not a plain file name"),
    "empty name": (lambda b: list_a_file_outside(b, ""), "not a plain file name"),
    "dots for a name": (lambda b: list_a_file_outside(b, ".."), "no regular file"),
    "long name": (lambda b: list_a_file_outside(b, "n" * 300), "missing"),
    "manifest cut": (lambda b: os.truncate(b / "manifest.json", 200), "is not JSON"),
    "manifest empty": (lambda b: os.truncate(b / "manifest.json", 0), "is not JSON"),
    "manifest not UTF-8": (lambda b: (b / "manifest.json").write_bytes(b'{"a": "\xff"}'), "is not JSON"),
    "manifest too deep": (lambda b: (b / "manifest.json").write_text("[" * 100_000), "is not JSON"),
    "manifest a list": (lambda b: (b / "manifest.json").write_text("[]"), "schema_version is None"),
    "manifest huge": (lambda b: (b / "manifest.json").write_bytes(b" " * (5 * 2**20)), "larger than"),
    "future schema": (edited(schema_version=2), "schema_version is 2"),
    "uncalibrated": (lambda b: edit_manifest(b, lambda c: c.pop("calibration")), "not calibrated"),
    "calibration null": (edited(calibration=None), "calibration"),
    "unknown field": (edited(extra=1), "extra"),
    "another chain": (lambda b: edit_manifest(b, lambda c: c["preprocessing"].update(chain="pil-1")), "chain"),
    "threshold NaN": (lambda b: edit_manifest(b, lambda c: c["calibration"].update(threshold=float("nan"))), "finite"),
    "release above threshold": (
        lambda b: edit_manifest(b, lambda c: c["calibration"].update(release_threshold=1e6)),
        "release_threshold is above",
    ),
    "no parity": (edited(parity=[]), "parity"),
    "graph not listed": (lambda b: edit_manifest(b, lambda c: c["files"].pop("encoder.onnx")), r"no encoder\.onnx"),
}


@pytest.mark.parametrize(("spoil", "word"), TAMPERED.values(), ids=TAMPERED)
def test_a_tampered_bundle_is_refused_with_its_cause(bundle, spoil, word):
    open_bundle(bundle)
    spoil(bundle)
    with pytest.raises(BundleError, match=word) as caught:
        open_bundle(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "encoder.onnx"])
def test_a_bundle_that_may_not_be_read_is_refused_and_its_file_named(bundle, monkeypatch, name):
    read = Path.read_bytes

    def denied(path):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(BundleError, match=rf"{name}: Permission denied"):
        open_bundle(bundle)


def test_a_bundle_whose_path_cannot_be_is_refused(tmp_path):
    with pytest.raises(BundleError, match="too long"):
        open_bundle(tmp_path / ("n" * 300))


def other_rank(model):
    del model.graph.input[0].type.tensor_type.shape.dim[4]


def rename_output(model):
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == "anomaly_score":
                node.output[place] = "score"
    model.graph.output[0].name = "score"


def large_tensors(model):
    return [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 4]


def data_outside(model):
    """Weights that lie in a file beside the graph, which the manifest does not list."""
    tensor = large_tensors(model)[0]
    data = onnx.numpy_helper.to_array(tensor).tobytes()
    Path("weights.bin").write_bytes(data)
    onnx.external_data_helper.set_external_data(tensor, "weights.bin", offset=0, length=len(data))
    tensor.ClearField("raw_data")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (rename_output, "no 'anomaly_score'"),
        (other_rank, "refuses it|frames is"),
        (data_outside, "refuses it"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(bundle, tmp_path, monkeypatch, change, word):
    monkeypatch.chdir(tmp_path)
    model = onnx.load(bundle / "detector.onnx")
    change(model)
    replace_listed(bundle, "detector.onnx", model.SerializeToString())
    opened = open_bundle(bundle)
    with pytest.raises(BundleError, match=word):
        Detector(opened, "cpu")


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code-ran",)


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_a_pickle_in_place_of_a_graph_is_refused_and_never_run(bundle, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    replace_listed(bundle, name, pickle.dumps(RunsCode()))
    opened = open_bundle(bundle)
    with pytest.raises(BundleError, match="refuses it"):
        Detector(opened, "cpu") if name == "detector.onnx" else Autoencoder(opened, "cpu")
    assert not (tmp_path / "code-ran").exists()


@pytest.mark.skipif(gpu_present(), reason="this machine has an NVIDIA device")
def test_cuda_that_is_not_there_is_refused_and_auto_takes_the_cpu(tiny_bundle):
    bundle = open_bundle(tiny_bundle.bundle)
    with pytest.raises(ConfigError, match="cuda was asked for"):
        Detector(bundle, "cuda")
    assert Detector(bundle, "auto").provider == "cpu"
