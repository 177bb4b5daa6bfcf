"""``trainer compare``: opens models and footage, compares, judges, and writes what is told of it."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from rich.console import Console

from contract.errors import ConfigError
from contract.kafka_source import parse_kafka_source
from contract.manifest import MANIFEST_NAME, open_bundle
from contract.source import open_source
from contract.whole_folder import require_free, whole_folder
from trainer.compare import Comparison, Evidence, compare_models
from trainer.comparison_report import comparison_section, verdict_section
from trainer.evaluate import LoadedModel, open_model
from trainer.judged import judged_events
from trainer.labels import read_labels
from trainer.page import page
from trainer.promotion import PromotionRule, Verdict, judge, judge_first
from trainer.settings import Device, FitSettings
from trainer.topic_footage import open_normal

COMPARISON_NAME: Final = "comparison.json"
VERDICT_NAME: Final = "verdict.json"
_PUT_IN: Final = "auroc_disturbed"


def open_evidence(
    normal: Sequence[str],
    labelled: Sequence[tuple[str, Path]],
    settings: FitSettings,
    console: Console,
    judged: str | None = None,
) -> list[Evidence]:
    """Open footage to compare models on.

    Args:
        normal: Addresses of normal footage; of a topic, what lies in no event.
        labelled: Addresses of labelled footage, each with its labels.
        settings: How a broker is spoken to, and what of a topic is taken.
        console: Where progress is shown.
        judged: Camera, topic and range whose judged events are taken, ``kafka://``; None for none.

    Raises:
        BrokerUnavailableError: No broker answers, or it does not let us in.
        ConfigError: A source is none.
        FootageError: A topic holds no such footage.
        LabelError: Labels do not describe their footage.
    """
    evidence = [Evidence("normal", open_normal(source, settings, console)) for source in normal]
    for source, labels in labelled:
        clips = open_source(source, settings.kafka)
        evidence.append(Evidence("labelled", clips, read_labels(labels, [clip.name for clip in clips])))
    if judged is not None:
        evidence += judged_events(parse_kafka_source(judged, settings.kafka), settings, console)
    return evidence


def compare(
    paths: tuple[Path | None, Path], evidence: Sequence[Evidence], rule: PromotionRule, out: Path, device: Device,
    console: Console,
) -> tuple[Comparison, Verdict]:  # fmt: skip
    """Compare two models and write ``comparison.json``, ``verdict.json`` and ``report.html``.

    Args:
        paths: Champion and challenger, runs or bundles; None for a champion where no model is in service, in whose
            place the challenger is then compared with itself.
        evidence: Footage.
        rule: By which the challenger would be promoted.
        out: Folder to write; an earlier comparison there is replaced.
        device: Where to score.
        console: Where progress is shown.

    Raises:
        ConfigError: ``out`` holds other files, there is no footage, or a folder is no model.
        BundleError: A bundle cannot be trusted.
        CheckpointError: A run cannot be used.
        FootageError: A frame cannot be decoded, or there is none.
        LabelError: Labels do not describe their footage.
    """
    require_free(out, replaceable=(out / COMPARISON_NAME).is_file())
    if not any(one.clips for one in evidence):
        raise ConfigError("there is no footage to compare on; give --normal, --labelled or --judged")
    challenger = open_model(paths[1], device)
    champion = challenger if paths[0] is None else open_model(paths[0], device)
    comparison = compare_models(champion, challenger, evidence, console)
    if paths[0] is None:
        verdict = judge_first(comparison, rule)
    else:
        verdict = judge(comparison, rule, _put_in(paths[0], paths[1]))
    with whole_folder(out, replaceable=(out / COMPARISON_NAME).is_file()) as folder:
        (folder / COMPARISON_NAME).write_text(comparison.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / VERDICT_NAME).write_text(verdict.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / "report.html").write_text(_page(comparison, verdict, champion, challenger), encoding="utf-8")
    return comparison, verdict


def _put_in(*paths: Path) -> tuple[float, float] | None:
    """AUROC of both on frames with something put in, where both are bundles that state it."""
    if not all((path / MANIFEST_NAME).is_file() for path in paths):
        return None
    champion, challenger = (open_bundle(path).manifest.quality.get(_PUT_IN) for path in paths)
    return None if champion is None or challenger is None else (champion, challenger)


def _page(comparison: Comparison, verdict: Verdict, champion: LoadedModel, challenger: LoadedModel) -> str:
    said = "The challenger would be promoted" if verdict.promoted else "The challenger would not be promoted"
    about = (
        f"{champion.name} (threshold {champion.calibration.threshold:.3f}) in service, {challenger.name} (threshold "
        f"{challenger.calibration.threshold:.3f}) beside it."
    )
    return page(
        said,
        f'<p class="about">{escape(about)} {escape(verdict.reason)}.</p>'
        + verdict_section(verdict)
        + comparison_section(comparison),
    )
