"""Fits and measures the presets on public labelled footage and writes docs/benchmarks/quality.md.

``make quality`` runs it. The footage is read from ``FRAMEWATCH_DATA`` or from ``../shared/data``: a folder ``ped2`` and
a folder ``mvtec_screw``, each as `trainer.datasets` reads it. Fits and reports are kept in ``quality-out``; what is
measured there already is not measured again.

The protocol: a fit sees normal training clips alone and splits them itself, in time, into frames to train on, to choose
the epoch by and to calibrate on. Test clips and their labels are read by the evaluation alone, once, after the fit.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console

from contract.command_line import run_command_line
from contract.errors import ConfigError
from contract.frame import FrameLimits, decode_frame
from contract.manifest import Precision, open_bundle
from contract.runtime import Detector
from contract.window import ClipWindow
from deploy.equal_light import equally_light, lightness_auroc
from deploy.measured import data_folder, is_kept, keep_result, kept_results, table
from exporter.build import build_bundle
from trainer.datasets import Dataset, open_dataset
from trainer.evaluate import evaluate, open_model
from trainer.fit import fit
from trainer.settings import FitSettings

OUT: Final = Path("quality-out")
PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "quality.md"
FIGURES: Final = (
    "frame_auroc", "frame_auroc_per_clip", "average_precision", "pixel_auroc", "aupro", "event_recall",
    "false_events_per_hour", "detection_delay_seconds",
)  # fmt: skip
_OF_PICTURES: Final = ("frame_auroc", "average_precision", "pixel_auroc", "aupro")
"""Those of them that mean something where the pictures do not follow each other."""

PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "int8")
_UNTRAINED: Final = {
    "frame_auroc_untrained": "untrained frame difference",
    "frame_auroc_untrained_flow": "untrained optical flow",
    "frame_auroc_lightness": "lightness of the picture alone",
}
_EXPORTED: Final = ("balanced", "best", "still")
_TIMED_FRAMES: Final = 120
_PUBLISHED: Final = """\
| published, Ped2, scores scaled to 0..1 by clip | per-clip frame AUROC |
|---|---|
| Conv-AE, Hasan et al. 2016, ten frames | 0.900 |
| MemAE, Gong et al. 2019, sixteen frames | 0.941 |
| the same autoencoder with skip-frame pseudo-anomalies, Astrid et al. 2021 | 0.965 |
| STEAL-Net, Astrid et al. 2021 | 0.984 |
| AI-VAD, Reiss and Hoshen 2022, pretrained features | 0.991 |
"""


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: As the table says it.
        folder: Of the dataset, within the data.
        settings: Of the fit, the seed left out.
    """

    name: str
    folder: str
    settings: dict[str, Any]

    def command(self, seed: int, minutes: float | None = None) -> str:
        """How a reader repeats the fit, ``minutes`` where they are not the preset's."""
        given = json.dumps({**self.settings, **({} if minutes is None else {"minutes": minutes})})
        return f"`trainer fit {self.folder}/train --config FILE --seed {seed}`, FILE holding `{given}`"


_PLAIN: Final[dict[str, Any]] = {"pseudo_anomalies": [], "augment": False, "model": {"comparator": None}}
METHODS: Final = (
    Method("best", "ped2", {"preset": "best"}),
    Method("balanced", "ped2", {"preset": "balanced"}),
    Method("fast, no optical flow", "ped2", {"preset": "fast"}),
    Method("still", "mvtec_screw", {"preset": "still"}),
    Method("plain autoencoder, squared error", "mvtec_screw", {"preset": "still", **_PLAIN}),
    Method("plain autoencoder, SSIM", "mvtec_screw", {"preset": "still", **_PLAIN, "loss": "ssim"}),
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)


@app.command()
def quality(
    data: Annotated[Path | None, typer.Option(help="Folder of datasets; FRAMEWATCH_DATA where not given.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the fits, separated by commas.")] = "0,1,2",
    only: Annotated[str | None, typer.Option(help="Dataset folder to measure alone.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time of each fit in place of the preset's.")] = None,
) -> None:
    """Fit and measure, then write the table."""
    root = data_folder(data)
    numbers = _seeds(seeds)
    there = [method for method in METHODS if (root / method.folder).is_dir() and only in (None, method.folder)]
    if not there:
        raise ConfigError(f"--data {root} holds neither ped2 nor mvtec_screw; name their folder or set FRAMEWATCH_DATA")
    for method in there:
        dataset = open_dataset(root / method.folder)
        for seed in numbers:
            _measure(method, dataset, seed, minutes, precisions=seed == numbers[0] and method.name in _EXPORTED)
    PAGE.write_text(page(list(kept_results(OUT))), encoding="utf-8")
    typer.echo(PAGE)


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r} must be whole numbers separated by commas") from None


def _measure(method: Method, dataset: Dataset, seed: int, minutes: float | None, *, precisions: bool) -> None:
    folder = OUT / f"{method.folder}-{method.name.replace(' ', '-').replace(',', '')}-{seed}"
    if is_kept(folder):
        return
    _console.print(f"{dataset.name}: {method.name}, seed {seed}", highlight=False)
    given = {**method.settings, "seed": seed, **({} if minutes is None else {"minutes": minutes})}
    settings = FitSettings(**given)
    started = time.monotonic()
    fit(dataset.train, str(method.folder), settings, folder / "run", _console)
    seconds = time.monotonic() - started
    model = open_model(folder / "run", "auto")
    metrics = evaluate(model, dataset.test, dataset.labels, folder / "report", _console)
    bundles = {precision: _bundle(folder, precision) for precision in (PRECISIONS if precisions else PRECISIONS[:1])}
    result = {
        "dataset": dataset.name,
        "method": method.name,
        "seed": seed,
        "command": method.command(seed, minutes),
        "fit_minutes": seconds / 60,
        "milliseconds_a_frame": milliseconds_a_frame(bundles["fp32"], dataset),
    }
    if dataset.kind == "images":
        clips = equally_light(dataset)
        equal = evaluate(model, clips, dataset.labels, folder / "equal-light", _console)
        result |= {name: metrics.get(name) for name in _OF_PICTURES}
        result |= {
            "frame_auroc_equal_light": equal["frame_auroc"],
            "frame_auroc_lightness": lightness_auroc(dataset.test, dataset),
        }
    else:
        result |= {name: metrics.get(name) for name in (*FIGURES, *_UNTRAINED)}
    if precisions:
        result["exported"] = {
            precision: evaluate(open_model(bundle, "auto"), dataset.test, dataset.labels, folder / precision, _console)[
                "frame_auroc"
            ]
            for precision, bundle in bundles.items()
        }
    keep_result(folder, result)


def _bundle(folder: Path, precision: Precision) -> Path:
    bundle = folder / f"bundle-{precision}"
    build_bundle(folder / "run", bundle, precision, overwrite=bundle.exists())
    return bundle


def milliseconds_a_frame(bundle: Path, dataset: Dataset) -> float:
    """Time decoding, motion and the model on CPU, one frame after another: median of the frames, milliseconds."""
    opened = open_bundle(bundle)
    detector, preprocessing = Detector(opened, "cpu"), opened.manifest.preprocessing
    window = ClipWindow(opened.manifest.shape.clip_frames, preprocessing)
    taken: list[float] = []
    for _, frame in zip(range(_TIMED_FRAMES), dataset.test[0].frames(), strict=False):
        started = time.perf_counter()
        detector.score(window.push(decode_frame(frame.data, preprocessing, FrameLimits()))[None])
        taken.append((time.perf_counter() - started) * 1000)
    return float(np.median(taken))


def page(results: Sequence[dict[str, Any]]) -> str:
    """Write the page of all results: one table a dataset, rows of one method joined to mean and spread over seeds."""
    lines = ["# Detection quality", "", "Written by `make quality`, which fits, evaluates and times every row.", ""]
    lines += [
        "Fits see normal training clips alone and split them themselves; test clips and labels are read once, by the",
        "evaluation, after the fit. Frame AUROC is one ranking over all frames, each scored from itself and earlier",
        "frames; per-clip AUROC scales each clip's scores to 0..1 first, as papers do. Where several seeds were run,",
        "figures are the mean and, after ±, the standard deviation. Minutes are of the whole fit, reading included.",
        "Where pictures do not follow each other, they are ranked once more with each scaled to the training pictures'",
        "median: their lightness alone may tell what is normal.",
        "",
    ]
    for dataset in dict.fromkeys(result["dataset"] for result in results):
        lines += [f"## {dataset}", "", *_table([result for result in results if result["dataset"] == dataset]), ""]
    return "\n".join([*lines, "## Published", "", _PUBLISHED])


def _table(results: Sequence[dict[str, Any]]) -> list[str]:
    known = (*FIGURES[:1], "frame_auroc_equal_light", *FIGURES[1:], "fit_minutes", "milliseconds_a_frame")
    columns = [name for name in known if any(result.get(name) is not None for result in results)]
    rows = []
    for method in dict.fromkeys(result["method"] for result in results):
        fits = [result for result in results if result["method"] == method]
        rows.append([method, str(len(fits)), *(_cell([one.get(column) for one in fits]) for column in columns)])
    for name, text in _UNTRAINED.items():
        value = results[0].get(name)
        if value is not None:
            rows.append([text, "", f"{value:.3f}", *[""] * (len(columns) - 1)])
    lines = table(("method", "seeds", *(name.replace("_", " ") for name in columns)), rows)
    exported = {result["method"]: result for result in results if "exported" in result}
    if exported:
        rows = [
            [method, *(f"{value:.4f}" for value in (one["frame_auroc"], *map(one["exported"].get, PRECISIONS)))]
            for method, one in exported.items()
        ]
        lines += ["", *table(("frame AUROC", "PyTorch", *PRECISIONS), rows)]
    commands = {result["method"]: result["command"] for result in reversed(results)}
    return [*lines, "", *(f"- {method}: {command}" for method, command in commands.items())]


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = statistics.fmean(known)
    return f"{mean:.3f}" if len(known) == 1 else f"{mean:.3f} ± {statistics.stdev(known):.3f}"


if __name__ == "__main__":
    sys.exit(run_command_line(app, "quality"))
