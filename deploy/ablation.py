"""Fits one variant of the model after another and ranks them without a label, then writes docs/benchmarks/ablation.md.

``make ablation`` runs it. The footage is Ped2's training clips, all of them normal, from ``FRAMEWATCH_DATA`` or from
``../shared/data``: variants are fitted to the first 60% of the clips and compared by how well the frames of probes put
into the others (`deploy.probes`) are told from those clips' own. No test clip and no label is read. A fit is short, so
that many can be tried; what wins here is confirmed by ``make quality``.
"""

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer
from numpy.lib.stride_tricks import sliding_window_view
from rich.console import Console

from contract.command_line import run_command_line
from contract.errors import ConfigError
from deploy.measured import data_folder, is_kept, keep_result, kept_results, table
from deploy.probed import Footage, Probed, ScoredProbes, put_probes, score_probes, thinned
from deploy.rescored import rescored
from trainer.evaluate import open_model
from trainer.fit import fit
from trainer.metrics import frame_auroc
from trainer.scored import ScoredStretch
from trainer.settings import FitSettings

OUT: Final = Path("ablation-out")
PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "ablation.md"
PROBED: Final = ("fast", "recoloured", "foreign", "abandoned", "sped up")
_FOOTAGE: Final = Footage("ped2/train", foreign="clips/bottle-detection.mp4")
_TOP_SHARE: Final = 0.02

Pool = Callable[[ScoredStretch], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Variant:
    """One way to make the model.

    Attributes:
        name: As the table says it.
        model: Fields of the model that differ from the preset's.
        settings: Other fields of the fit that do.
        stride: Frames from one that is seen to the next.
    """

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    stride: int = 1


_PLAIN: Final[dict[str, Any]] = {"pseudo_anomalies": []}
VARIANTS: Final = (
    Variant("`balanced` as shipped"),
    Variant("no pseudo-anomalies: residual of a plain autoencoder", {"comparator": None}, _PLAIN),
    Variant("the same, denoising (sigma 0.05)", {"comparator": None}, {**_PLAIN, "noise": 0.05}),
    Variant("pseudo-anomalies, residual in place of the comparator", {"comparator": None}),
    Variant("bottleneck: fully connected over the frame, latent 256", {"bottleneck": "frame", "latent": 256}),
    Variant("bottleneck: fully connected by tile of 32 px, latent 64", {"bottleneck": "tile", "latent": 64}),
    Variant("bottleneck: spatial, latent 4", {"latent": 4}),
    Variant("bottleneck: spatial, latent 64", {"latent": 64}),
    Variant(
        "pseudo-anomalies without skipped frames",
        {},
        {"pseudo_anomalies": ["faster", "displaced", "foreign", "covered"]},
    ),
    Variant("skipped frames alone", {}, {"pseudo_anomalies": ["skip-frame"]}),
    Variant("foreign pieces alone", {}, {"pseudo_anomalies": ["foreign"]}),
    Variant("the autoencoder sees 3 frames", {"clip_frames": 3}),
    Variant("stride 2: every second frame alone, and motion between those", stride=2),
    Variant("the same, the autoencoder sees 3 of them", {"clip_frames": 3}, stride=2),
    Variant("motion of one frame, not averaged over 5", {"motion_frames": 1}),
    Variant("loss: absolute error", {}, {"loss": "l1"}),
    Variant("loss: SSIM and absolute error", {}, {"loss": "ssim"}),
    Variant("loss: absolute error of pictures and of their gradients", {}, {"loss": "gradient"}),
    Variant("motion: optical flow, finer and slower", {"motion": "flow-dis-2"}),
    Variant("motion: differences of frames", {"motion": "difference-1"}),
    Variant("no motion", {"motion": "none"}),
    Variant("input 192x288", {"height": 192, "width": 288}),
    Variant("whole frames, no crops where things move", {}, {"crop_px": None, "batch": 16}),
    Variant("training frames as they are: no other light, noise or starts", {}, {"augment": False}),
    Variant("comparator twice as wide", {"comparator": (48, 96, 128)}),
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)


@app.command()
def ablation(
    data: Annotated[Path | None, typer.Option(help="Folder of datasets; FRAMEWATCH_DATA where not given.")] = None,
    minutes: Annotated[float, typer.Option(help="Time of each fit.")] = 2.0,
    probes: Annotated[int, typer.Option(min=1, help="Probes of each kind.")] = 18,
    seeds: Annotated[int, typer.Option(min=1, help="Fits of each variant.")] = 1,
    only: Annotated[str | None, typer.Option(help="Part of the name of the variants to measure alone.")] = None,
) -> None:
    """Fit the variants, compare them and write the table."""
    root = data_folder(data)
    if not (root / _FOOTAGE.path).is_dir() or not (root / _FOOTAGE.foreign).is_file():
        raise ConfigError(f"--data {root} holds no {_FOOTAGE.path} and {_FOOTAGE.foreign}; set FRAMEWATCH_DATA")
    for seed in range(seeds):
        left = [
            (folder, number)
            for number, variant in enumerate(VARIANTS)
            if (only or "") in variant.name and not is_kept(folder := OUT / f"{number:02}-{seed}")
        ]
        if left:
            probed = put_probes(root, _FOOTAGE, PROBED, probes, seed)
            for folder, number in left:
                _measure(thinned(probed, VARIANTS[number].stride), folder, number, minutes, seed)
    PAGE.write_text(page(list(kept_results(OUT))), encoding="utf-8")
    typer.echo(PAGE)


def _measure(probed: Probed, folder: Path, number: int, minutes: float, seed: int) -> None:
    variant = VARIANTS[number]
    _console.print(f"{variant.name}, seed {seed}", highlight=False)
    settings = FitSettings(
        **{"preset": "balanced", "minutes": minutes, "seed": seed, "model": variant.model, **variant.settings}
    )
    checkpoint = fit(probed.before, _FOOTAGE.path, settings, folder / "run", _console)
    scored = score_probes(open_model(folder / "run", "auto"), probed, _console)
    auroc = {pool: auroc_by_kind(scored, POOLS[pool]) for pool in (POOLS if number == 0 else [HIGHEST])}
    if number == 0:
        for name, model in rescored(folder / "run").items():
            auroc[name] = auroc_by_kind(score_probes(model, probed, _console), POOLS[HIGHEST])
    result = {
        "number": number,
        "name": variant.name,
        "seed": seed,
        "minutes": minutes,
        "steps": checkpoint.training["steps"],
        "parameters": sum(tensor.numel() for tensor in checkpoint.detector.parameters()),
        "auroc": auroc,
    }
    keep_result(folder, result)


def auroc_by_kind(scored: ScoredProbes, pool: Pool) -> dict[str, float]:
    """AUROC of each kind's frames, from the first in which something is wrong, against all normal frames."""
    normal = np.concatenate([pool(stretch) for stretch in scored.normal])
    by_kind: dict[str, float] = {}
    for kind in PROBED:
        found = [pool(stretch)[probe.first :] for probe, stretch in scored.probes if probe.kind == kind]
        if not found:
            continue
        wrong = np.concatenate(found)
        labels = np.repeat([False, True], [len(normal), len(wrong)])
        value = frame_auroc(labels, np.concatenate([normal, wrong])).value
        by_kind[kind] = float("nan") if value is None else value
    return by_kind


def _mean(stretch: ScoredStretch) -> npt.NDArray[np.float64]:
    return np.asarray(stretch.maps.mean((1, 2), dtype=np.float64))


def _top_share(stretch: ScoredStretch) -> npt.NDArray[np.float64]:
    cells = np.sort(stretch.maps.reshape(len(stretch.maps), -1).astype(np.float64), axis=1)
    return np.asarray(cells[:, -max(1, round(_TOP_SHARE * cells.shape[1])) :].mean(1))


def _block(cells: int) -> Pool:
    """Highest mean of a block of so many cells a side."""

    def pool(stretch: ScoredStretch) -> npt.NDArray[np.float64]:
        blocks = sliding_window_view(stretch.maps.astype(np.float64), (cells, cells), axis=(1, 2))
        return np.asarray(blocks.mean((3, 4)).max((1, 2)))

    return pool


def _smoothed(frames: int) -> Pool:
    """Highest cell of the map, averaged over this frame and those before it."""

    def pool(stretch: ScoredStretch) -> npt.NDArray[np.float64]:
        padded = np.concatenate([np.full(frames - 1, stretch.scores[0]), stretch.scores])
        return np.convolve(padded, np.full(frames, 1 / frames), "valid")

    return pool


HIGHEST: Final = "highest cell"
POOLS: Final[dict[str, Pool]] = {
    HIGHEST: lambda stretch: stretch.scores,
    "mean of all cells": _mean,
    "mean of the highest 2% of cells": _top_share,
    "highest block of 2x2 cells": _block(2),
    "highest block of 4x4 cells": _block(4),
    "highest cell, averaged over 3 frames": _smoothed(3),
    "highest cell, averaged over 7 frames": _smoothed(7),
}


def page(results: Sequence[dict[str, Any]]) -> str:
    """Write the page of all results."""
    lines = [
        "# Ablation",
        "",
        "Written by `make ablation`. Variants are fitted to the first 60% of Ped2's training clips and compared by",
        "probes put into the others, as `deploy/probes.py` says: AUROC of their frames against those clips' own.",
        "No test clip and no label is read. Everything but what the row names is as in `balanced` but the minutes.",
        "With short fits and few clips, differences of 0.02 may be chance.",
        "",
    ]
    numbers = sorted({result["number"] for result in results})
    rows = (row for number in numbers for row in _rows([one for one in results if one["number"] == number]))
    columns = ("variant", "fits, minutes, steps", "parameters", *PROBED, "mean")
    return "\n".join([*lines, *table(columns, rows), ""])


def _rows(fits: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """A variant's rows, one for each way to pool its map, the mean of its fits."""
    first = fits[0]
    ran = f"{len(fits)}, {first['minutes']:g}, {round(statistics.median(one['steps'] for one in fits))}"
    for pool in first["auroc"]:
        name = first["name"] if pool == HIGHEST else f"the same, scored by {pool}"
        figures = {kind: statistics.mean(one["auroc"][pool][kind] for one in fits) for kind in first["auroc"][pool]}
        by_kind = [f"{figures[kind]:.3f}" if kind in figures else "-" for kind in PROBED]
        yield [name, ran, f"{first['parameters']:,}", *by_kind, f"{statistics.mean(figures.values()):.3f}"]


if __name__ == "__main__":
    sys.exit(run_command_line(app, "ablation"))
