"""ONNX Runtime sessions of a bundle: the one place that chooses a provider and runs a graph."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime

from contract.errors import BundleError, ConfigError, FramewatchError
from contract.manifest import Bundle
from contract.scoring import FloatArray

Provider = Literal["auto", "cuda", "cpu"]
ResultT = TypeVar("ResultT")

_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_ERRORS_ONLY: Final = 3
_TRIED_BATCHES: Final = (1, 2)
_log = logging.getLogger(__name__)


def gpu_present() -> bool:
    """Whether the machine shows an NVIDIA device."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()


def open_session(
    model: bytes, provider: Provider, threads: int = 0, where: str = "model"
) -> onnxruntime.InferenceSession:
    """Open a session on the provider asked for, never silently on another.

    Args:
        model: A serialized ONNX model without external data.
        provider: ``cuda``, ``cpu``, or ``auto`` for CUDA where a device is present and CPU elsewhere.
        threads: Threads within an operator on CPU; 0 for one a core.
        where: Name of the model in messages.

    Raises:
        ConfigError: CUDA was asked for, or a device is present, and the CUDA provider did not load.
        BundleError: ONNX Runtime refuses the model.
    """
    cuda = gpu_present() and provider != "cpu"
    if provider == "cuda" and not cuda:
        raise ConfigError("provider: cuda was asked for and this machine shows no NVIDIA device; set provider to cpu")
    if cuda:
        # Finds CUDA's and cuDNN's libraries among the installed Python packages.
        onnxruntime.preload_dlls()
    # TF32 rounds float32's mantissa to 10 bits, by which scores would differ from PyTorch's.
    providers = [(_CUDA, {"use_tf32": "0"}), _CPU] if cuda else [_CPU]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights that lie outside the model, which no digest covers, would be read from the current folder.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:
        raise BundleError(f"{where}: ONNX Runtime refuses it: {_first_line(error)}") from error
    if cuda and session.get_providers()[0] != _CUDA:
        raise ConfigError(
            "provider: CUDA did not load; check the driver and install framewatch[cuda], or set provider to cpu"
        )
    # A session whose CUDA fails would go on, on CPU, with a line on standard output.
    session.disable_fallback()
    return session


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:200]


class Detector:
    """The bundle's detector graph, verified and ready.

    Attributes:
        bundle: The bundle it came from.
        provider: ``cuda`` or ``cpu``, whichever runs it.
    """

    def __init__(self, bundle: Bundle, provider: Provider = "auto", threads: int = 0) -> None:
        """Open the graph, compare its inputs and outputs with the manifest, and score one black clip and two of noise.

        Raises:
            BundleError: The graph is refused, has other names, types or shapes, takes batches of one size alone, gives
                what is not finite, or scores a clip differently beside another one.
            ConfigError: The provider asked for cannot be had.
        """
        self.bundle = bundle
        preprocessing, shape = bundle.manifest.preprocessing, bundle.manifest.shape
        where = str(bundle.folder / "detector.onnx")
        self._session = open_session(bundle.read_graph("detector.onnx"), provider, threads, where)
        self.provider: Literal["cuda", "cpu"] = "cuda" if self._session.get_providers()[0] == _CUDA else "cpu"
        self.input_shape = (
            shape.clip_frames, preprocessing.height, preprocessing.width, preprocessing.input_channels,
        )  # fmt: skip
        _expect(where, self._session.get_inputs(), [("frames", "tensor(uint8)", self.input_shape)])
        _expect(
            where,
            self._session.get_outputs(),
            [("anomaly_score", "tensor(float)", ()), ("anomaly_map", "tensor(float)", shape.anomaly_map)],
        )
        noise = np.random.default_rng(0).integers(0, 256, (2, *self.input_shape), np.uint8)
        for clips in (np.zeros_like(noise[:1]), noise):
            score, anomaly_map = _tried(where, self.score, clips)
            _expect_shape(where, "anomaly_score", score, (len(clips),))
            _expect_shape(where, "anomaly_map", anomaly_map, (len(clips), *shape.anomaly_map))
        self._expect_same_alone(where, noise, score)

    def _expect_same_alone(self, where: str, clips: npt.NDArray[np.uint8], together: FloatArray) -> None:
        """Compare scores of a batch with those of its clips alone, as far as PyTorch's were compared with both."""
        rows = [row.tolerance for row in self.bundle.manifest.parity if row.output == "anomaly_score"]
        accepted = max((tolerance for tolerance in rows if tolerance is not None), default=None)
        alone = np.concatenate([_tried(where, self.score, clip[None])[0] for clip in clips])
        difference = np.abs(alone - together) / np.maximum(np.abs(alone), 1)
        if accepted is not None and difference.max() > 2 * accepted:
            raise BundleError(
                f"{where}: scores {alone.tolist()} alone and {together.tolist()} in a batch; build the bundle again"
            )

    @property
    def scores_whole_batches(self) -> bool:
        """Whether one call for a batch is better than several at once: on a GPU it is."""
        return self.provider == "cuda"

    def score(self, frames: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        """Score clips of frames.

        Args:
            frames: uint8 of shape (batch, clip_frames, height, width, input_channels).

        Returns:
            Scores, float32 of shape (batch,), and maps, float32 of shape (batch, rows, columns).

        Raises:
            BundleError: A score is not finite: the model is broken.
            FramewatchError: ONNX Runtime failed while running, out of memory for one.
        """
        score, anomaly_map = _run(self._session, {"frames": frames}, ["anomaly_score", "anomaly_map"])
        if not np.isfinite(score).all() or not np.isfinite(anomaly_map).all():
            raise BundleError(f"bundle {self.bundle.folder}: the detector gives scores that are not finite; fit again")
        return score, anomaly_map


class Autoencoder:
    """The bundle's two halves, verified and ready: encoder and decoder."""

    def __init__(self, bundle: Bundle, provider: Provider = "auto", threads: int = 0) -> None:
        """Open both graphs, compare them with the manifest, and redraw one black clip and two.

        Raises:
            BundleError: A graph is refused, has other names, types or shapes, takes batches of one size alone, or gives
                what is not finite.
            ConfigError: The provider asked for cannot be had.
        """
        self.bundle = bundle
        preprocessing, shape = bundle.manifest.preprocessing, bundle.manifest.shape
        images = (shape.redrawn_frames * preprocessing.input_channels, preprocessing.height, preprocessing.width)
        where = {name: str(bundle.folder / f"{name}.onnx") for name in ("encoder", "decoder")}
        self._encoder, self._decoder = (
            open_session(bundle.read_graph(f"{name}.onnx"), provider, threads, where[name]) for name in where
        )
        float32 = "tensor(float)"
        _expect(where["encoder"], self._encoder.get_inputs(), [("images", float32, images)])
        _expect(where["encoder"], self._encoder.get_outputs(), [("latent", float32, shape.latent)])
        _expect(where["decoder"], self._decoder.get_inputs(), [("latent", float32, shape.latent)])
        _expect(where["decoder"], self._decoder.get_outputs(), [("reconstruction", float32, images)])
        for batch in _TRIED_BATCHES:
            latents = _tried(where["encoder"], self.encode, np.zeros((batch, *images), np.float32))
            _expect_shape(where["encoder"], "latent", latents, (batch, *shape.latent))
            redrawn = _tried(where["decoder"], self.decode, latents)
            _expect_shape(where["decoder"], "reconstruction", redrawn, (batch, *images))

    def encode(self, images: FloatArray) -> FloatArray:
        """Encode images.

        Args:
            images: float32 of shape (batch, redrawn_frames * input_channels, height, width), 0..1.

        Returns:
            Latents, float32 of shape (batch, *latent).

        Raises:
            BundleError: A latent is not finite: the model is broken.
            FramewatchError: ONNX Runtime failed while running, out of memory for one.
        """
        (latents,) = _run(self._encoder, {"images": images}, ["latent"])
        return self._finite("latents", latents)

    def decode(self, latents: FloatArray) -> FloatArray:
        """Decode latents.

        Args:
            latents: float32 of shape (batch, *latent).

        Returns:
            Reconstructions, float32 of shape (batch, redrawn_frames * input_channels, height, width).

        Raises:
            BundleError: A reconstruction is not finite: the model is broken.
            FramewatchError: ONNX Runtime failed while running, out of memory for one.
        """
        (reconstructions,) = _run(self._decoder, {"latent": latents}, ["reconstruction"])
        return self._finite("reconstructions", reconstructions)

    def _finite(self, what: str, values: FloatArray) -> FloatArray:
        if not np.isfinite(values).all():
            raise BundleError(f"bundle {self.bundle.folder}: it gives {what} that are not finite; fit again")
        return values


def _run(session: onnxruntime.InferenceSession, feed: dict[str, npt.NDArray[Any]], names: list[str]) -> list[Any]:
    try:
        return list(session.run(names, feed))
    except Exception as error:
        count = len(next(iter(feed.values())))
        raise FramewatchError(f"ONNX Runtime failed on a batch of {count}: {_first_line(error)}") from error


def _tried(where: str, run: Callable[[Any], ResultT], batch: npt.NDArray[Any]) -> ResultT:
    try:
        return run(batch)
    except BundleError:
        raise
    except FramewatchError as error:
        raise BundleError(f"{where}: {error}; build the bundle again") from error


def _expect_shape(where: str, name: str, found: FloatArray, expected: tuple[int, ...]) -> None:
    if found.shape != expected:
        raise BundleError(f"{where}: {name} came with shape {found.shape}, expected {expected}")


def _expect(where: str, found: list[Any], expected: list[tuple[str, str, tuple[int, ...]]]) -> None:
    for name, kind, shape in expected:
        node = next((node for node in found if node.name == name), None)
        if node is None:
            raise BundleError(f"{where}: no {name!r} among {[node.name for node in found]}")
        if node.type != kind or len(node.shape) != len(shape) + 1:
            raise BundleError(f"{where}: {name} is {node.type}{node.shape}, expected {kind} of shape (batch, *{shape})")
        if isinstance(node.shape[0], int):
            raise BundleError(f"{where}: {name} has shape {node.shape}, which takes batches of {node.shape[0]} alone")
        if any(isinstance(size, int) and size != want for size, want in zip(node.shape[1:], shape, strict=True)):
            raise BundleError(f"{where}: {name} has shape {node.shape}, the manifest says (batch, *{shape})")
