"""A graph runs as its manifest says, on the provider asked for, or it is refused with the cause named."""

import hashlib
import json
import shutil

import numpy as np
import onnx
import pytest

from contract.errors import BundleError, FramewatchError
from contract.manifest import open_bundle
from contract.runtime import Autoencoder, Detector, gpu_present, open_session


@pytest.fixture
def changed(tiny_bundle, tmp_path):
    """Opens a copy of the bundle in which one graph was changed and the manifest's digest made to match."""

    def change_graph(name, change):
        folder = shutil.copytree(tiny_bundle.bundle, tmp_path / "bundle")
        model = onnx.load(folder / name)
        change(model.graph)
        data = model.SerializeToString()
        (folder / name).write_bytes(data)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return open_bundle(folder)

    return change_graph


def renamed(before, after):
    def change(graph):
        for node in graph.node:
            node.input[:] = [after if name == before else name for name in node.input]
            node.output[:] = [after if name == before else name for name in node.output]
        for value in (*graph.input, *graph.output):
            value.name = after if value.name == before else value.name

    return change


def fixed_batch(graph):
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def first_of_batch(graph):
    """The declared shapes keep a free batch; what comes out is the first of it alone."""
    for name, value in (("start", 0), ("end", 1)):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    for node in graph.node:
        node.output[:] = ["before" if name == "latent" else name for name in node.output]
    graph.node.append(onnx.helper.make_node("Slice", ["before", "start", "end", "start"], ["latent"]))


def not_a_number(graph):
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = np.full_like(onnx.numpy_helper.to_array(tensor), np.nan)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def other_side(graph):
    graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32


def other_rank(graph):
    del graph.input[0].type.tensor_type.shape.dim[3]


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("encoder.onnx", renamed("images", "pictures"), "no 'images'"),
        ("encoder.onnx", renamed("latent", "code"), "no 'latent'"),
        ("decoder.onnx", renamed("latent", "code"), "no 'latent'"),
        ("decoder.onnx", renamed("reconstruction", "picture"), "no 'reconstruction'"),
        ("encoder.onnx", other_side, "refuses it|has shape"),
        ("encoder.onnx", other_rank, "refuses it|images is"),
        ("encoder.onnx", not_a_number, "latents that are not finite"),
        ("decoder.onnx", not_a_number, "reconstructions that are not finite"),
        ("encoder.onnx", fixed_batch, "batches of 1 alone|refuses it"),
        ("decoder.onnx", fixed_batch, "batches of 1 alone|refuses it"),
        ("encoder.onnx", first_of_batch, r"came with shape \(1, 8\), expected \(2, 8\)"),
    ],
)
def test_a_half_that_is_not_what_the_manifest_says_is_refused(changed, name, change, word):
    bundle = changed(name, change)
    with pytest.raises(BundleError, match=word) as caught:
        Autoencoder(bundle, "cpu")
    assert name in str(caught.value) or "finite" in word
    assert "\n" not in str(caught.value)


def test_a_detector_that_takes_one_frame_at_a_time_is_refused(changed):
    bundle = changed("detector.onnx", fixed_batch)
    with pytest.raises(BundleError, match=r"batches of 1 alone|refuses it"):
        Detector(bundle, "cpu")


def test_a_failure_while_running_is_no_fault_of_the_bundle(tiny_bundle):
    halves = Autoencoder(open_bundle(tiny_bundle.bundle), "cpu")
    for run in (halves.encode, halves.decode):
        with pytest.raises(FramewatchError, match="batch of 3") as caught:
            run(np.zeros((3, 1, 1), np.float32))
        assert type(caught.value) is FramewatchError


def session_of(tiny_bundle):
    return open_session((tiny_bundle.bundle / "detector.onnx").read_bytes(), "auto")


def test_a_provider_that_fails_while_running_is_not_replaced_by_another(tiny_bundle, monkeypatch):
    from onnxruntime.capi._pybind_state import EPFail

    session = session_of(tiny_bundle)

    class Failing:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def run(self, *arguments):
            raise EPFail("the device is gone")

    monkeypatch.setattr(session, "_sess", Failing(session._sess))
    with pytest.raises(EPFail, match="the device is gone"):
        session.run(None, {"frames": np.zeros((1, 1, 64, 64, 1), np.uint8)})


@pytest.mark.skipif(not gpu_present(), reason="this machine has no NVIDIA device")
def test_cuda_computes_in_full_float32(tiny_bundle):
    options = session_of(tiny_bundle).get_provider_options()["CUDAExecutionProvider"]
    assert options["use_tf32"] == "0"
