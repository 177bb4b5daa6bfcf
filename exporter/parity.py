"""How far the graphs are from PyTorch, on held-out clips, at batch 1 and several."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table

from contract.errors import ParityError
from contract.manifest import ParityRow, Precision
from contract.scoring import FloatArray
from trainer.detector import Detector
from trainer.model import seen_images

BATCHES: Final = (1, 3, 8)
_MAX_LABELS_APART: Final = {"fp32": 0.0, "fp16": 0.03, "int8": 0.15}
"""Share of the compared frames whose label may differ from PyTorch's, by precision."""

_TOLERANCES: Final = {"latent": 1e-3, "reconstruction": 1e-4, "anomaly_map": 1e-3, "anomaly_score": 5e-4, "label": 0.0}

Graph = Callable[[npt.NDArray[np.generic]], Sequence[FloatArray]]


def measure_parity(
    detector: Detector,
    graphs: dict[str, Graph],
    clips: npt.NDArray[np.uint8],
    thresholds: tuple[float, float],
    precision: Precision,
) -> tuple[ParityRow, ...]:
    """Compare latents, reconstructions, maps, scores and labels with PyTorch's.

    Args:
        detector: The PyTorch detector, the reference, in fp32.
        graphs: ``encoder``, ``decoder`` and ``detector``: an array in, outputs out.
        clips: uint8 of shape (n, detector_frames, height, width, channels), normal and disturbed.
        thresholds: PyTorch's and the graphs', which differ where the graphs were calibrated anew.
        precision: Of the graphs; differences are bounded for fp32, and labels for every precision.

    Returns:
        One row for each output and batch size.

    Raises:
        ParityError: An output is not finite.
    """
    with torch.inference_mode():
        frames = torch.from_numpy(clips)
        images = seen_images(frames, detector.autoencoder.config)
        latent = detector.autoencoder.encoder(images)
        reconstruction = detector.autoencoder.decoder(latent)
        score, anomaly_map = detector(frames)
    expected = {
        "latent": latent.numpy(),
        "reconstruction": reconstruction.numpy(),
        "anomaly_map": anomaly_map.numpy(),
        "anomaly_score": score.numpy(),
        "label": (score.numpy() >= thresholds[0]).astype(np.float32),
    }
    rows = []
    for batch in BATCHES:
        scores, maps = in_batches(graphs["detector"], clips, batch)
        found = {
            "latent": in_batches(graphs["encoder"], images.numpy(), batch)[0],
            "reconstruction": in_batches(graphs["decoder"], expected["latent"], batch)[0],
            "anomaly_map": maps,
            "anomaly_score": scores,
            "label": (scores >= thresholds[1]).astype(np.float32),
        }
        for output, wanted in expected.items():
            difference = np.abs(found[output] - wanted)
            largest = float(difference.sum() if output == "label" else difference.max())
            if not np.isfinite(largest):
                raise ParityError(
                    f"{output} of the {precision} graphs is not finite at batch {batch}; no bundle was written; "
                    "build with --precision fp32"
                )
            tolerance = _TOLERANCES[output] if precision == "fp32" else None
            if output == "label":
                tolerance = float(int(_MAX_LABELS_APART[precision] * len(clips)))
            rows.append(
                ParityRow(
                    output=output, batch=batch, frames=len(clips), largest_difference=largest, tolerance=tolerance
                )
            )
    return tuple(rows)


def require_parity(rows: Sequence[ParityRow]) -> None:
    """Refuse graphs that are too far from PyTorch.

    Raises:
        ParityError: A difference is above its tolerance, or not a number.
    """
    for row in rows:
        if row.tolerance is not None and not row.largest_difference <= row.tolerance:
            raise ParityError(
                f"{row.output} of the ONNX graphs differs from PyTorch by {row.largest_difference:.3g} at batch "
                f"{row.batch}, at most {row.tolerance:g} is accepted; no bundle was written"
            )


def parity_table(rows: Sequence[ParityRow]) -> Table:
    """Lay the rows out for a terminal."""
    table = Table(title="ONNX against PyTorch: largest difference")
    table.add_column("output")
    for batch in BATCHES:
        table.add_column(f"batch {batch}", justify="right")
    table.add_column("accepted", justify="right")
    for output, tolerance in {row.output: row.tolerance for row in rows}.items():
        cells = [f"{row.largest_difference:.3g}" for row in rows if row.output == output]
        table.add_row(output, *cells, "-" if tolerance is None else f"{tolerance:g}")
    return table


def in_batches(graph: Graph, inputs: npt.NDArray[np.generic], batch: int) -> list[FloatArray]:
    """Run a graph over inputs, so many at a time.

    Args:
        graph: An array in, outputs out.
        inputs: Shape (n, ...), n above 0.
        batch: Inputs at a time.

    Returns:
        Each output, shape (n, ...).
    """
    outputs = [graph(inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
    return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]
