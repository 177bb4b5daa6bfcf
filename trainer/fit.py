"""The fit: footage in, run folder out. Reads top to bottom; one function for every variant of the model."""

import math
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from rich.console import Console
from torch.nn import functional

from contract import __version__
from contract.clip import Clip
from contract.errors import ConfigError, TrainingError
from contract.scene import SceneReference
from contract.source import without_credentials
from trainer.batches import Batch, BatchMaker
from trainer.budget import require_support
from trainer.calibrate import calibrate_detector, take_samples
from trainer.checkpoint import LAST_NAME, Checkpoint, load_tensors, save_atomically
from trainer.detector import Detector
from trainer.devices import is_out_of_memory, on_first, start_fabric
from trainer.disturb import put_in
from trainer.footage import Footage, FootageReader, Part
from trainer.losses import LossFunction, loss_function
from trainer.model import Autoencoder
from trainer.progress import StageProgress
from trainer.run_folder import open_run, write_run
from trainer.run_pictures import EpochRecord
from trainer.settings import FitSettings
from trainer.skipped import SkippedMotion, skip_frames
from trainer.topic_footage import TopicFootage

_WARM_UP_SHARE = 0.05
_VALIDATION_CLIPS = 512


@dataclass
class _State:
    """Where a fit stands at the end of an epoch; what a resumed one starts from."""

    footage: str
    epoch: int = 0
    steps: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    records: list[EpochRecord] = field(default_factory=list)


def fit(clips: Sequence[Clip], source: str, settings: FitSettings, out: Path, console: Console) -> Checkpoint:
    """Fit the autoencoder to normal footage, calibrate it and write the run folder.

    A fit that was killed goes on from its last saved epoch when it is run again with the same settings and folder. With
    ``epochs`` the same seed gives the same weights on one CPU, resumed or not; with ``minutes`` it depends on the
    machine's speed. Under ``torchrun`` every process trains on its share of each epoch.

    Args:
        clips: Normal footage.
        source: How the footage was named, for the record.
        settings: What to do.
        out: The run folder; new, empty, or of an unfinished fit with the same settings.
        console: Where progress is shown.

    Returns:
        The calibrated checkpoint, as written; its detector is on the device of the fit.

    Raises:
        ConfigError: The folder is in use, the footage is not that of the fit that was stopped or is too short for the
            budget asked for, or the device asked for is not there.
        FootageError: The footage cannot be used.
        TrainingError: The loss is not finite, or the device has no memory for the model.
    """
    source = without_credentials(source)
    fabric = start_fabric(settings)
    goes_on = on_first(fabric, lambda: open_run(out, settings, source))
    resumed = load_tensors(out / LAST_NAME) if goes_on else None
    try:
        return _fit(fabric, clips, source, settings, out, resumed, console)
    except BaseException as error:
        if fabric.is_global_zero and not (out / LAST_NAME).exists():
            # Nothing to go on from: a mistake leaves no folder behind.
            shutil.rmtree(out, ignore_errors=True)
        if is_out_of_memory(error):
            raise TrainingError(
                f"there is no memory for this model on {fabric.device}; lower batch or the sides of model"
            ) from error
        raise


def _fit(
    fabric: Fabric,
    clips: Sequence[Clip],
    source: str,
    settings: FitSettings,
    out: Path,
    resumed: dict[str, Any] | None,
    console: Console,
) -> Checkpoint:
    if isinstance(clips, TopicFootage):
        on_first(fabric, clips.record)  # the others then find it on disk
    footage = _read_footage(clips, settings, out, console, shown=fabric.is_global_zero)
    training, validation, calibration = footage.split(
        settings.validation_share, settings.calibration_share, settings.guard_seconds
    )
    if fabric.is_global_zero:
        console.print(
            f"{len(footage.frames)} frames at {footage.frames_per_second:g} frames/s: {len(training)} to train on, "
            f"{len(validation)} to choose by, {len(calibration)} to calibrate on",
            highlight=False,
        )
    require_support(len(calibration), footage.frames_per_second, settings)
    if resumed is not None and resumed["footage"] != footage.fingerprint():
        raise ConfigError(f"--out {out} holds a fit of other footage, which {source} gave before; name another folder")
    fabric.seed_everything(settings.seed, workers=False, verbose=False)
    detector = Detector(Autoencoder(settings.model))
    skipped = _skip_frames(footage, (training, validation), settings, out, console, shown=fabric.is_global_zero)
    batches = BatchMaker(footage, settings, skipped, detector.position.to(fabric.device))
    state = _train(
        fabric, detector, training, validation, batches, settings, out, resumed, console, footage.fingerprint()
    )
    fabric.barrier()

    detector.load_state_dict(state.best)
    detector.to(fabric.device)
    fitted, event_rule, drift = calibrate_detector(
        detector, validation, calibration, frames_per_second=footage.frames_per_second, settings=settings
    )
    provenance = _provenance(fabric, settings, source, footage, state, (training, validation, calibration))
    if isinstance(clips, TopicFootage):
        provenance["topic"] = clips.record()
    scene = SceneReference.of(footage.frames, settings.model.preprocessing.channels, footage.least_colour)
    checkpoint = Checkpoint(detector, fitted, event_rule, scene, drift, provenance)
    if fabric.is_global_zero:
        write_run(out, checkpoint, take_samples(detector, validation, calibration, settings.seed), state.records)
    fabric.barrier()
    return checkpoint


def _train(
    fabric: Fabric,
    detector: Detector,
    training: Part,
    validation: Part,
    batches: BatchMaker,
    settings: FitSettings,
    out: Path,
    resumed: dict[str, Any] | None,
    console: Console,
    footage: str,
) -> _State:
    """Run epochs until the epochs or the minutes are over; keep the best weights by held-out loss."""
    state = _State(footage=footage)
    detector = detector.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(detector.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    if resumed is not None:
        _restore(resumed, detector, optimizer, state)
    # What a killed fit recorded after it was last saved is hidden, since it is done again.
    records = TensorBoardLogger(out, name="tensorboard", version="", purge_step=state.steps + 1 if resumed else None)
    model, optimizer = fabric.setup(detector, optimizer)
    model.mark_forward_method("redraw_and_compare")
    loss_of = loss_function(settings.loss, settings.model)
    steps = math.ceil(len(training) / (settings.batch * fabric.world_size))
    steps = min(max(steps, settings.min_epoch_steps), settings.max_epoch_steps)
    started = time.monotonic() - state.seconds
    saved_at = time.monotonic()
    share = 0.0

    with StageProgress("training", console, shown=fabric.is_global_zero) as progress:
        while not _is_over(state, settings):
            model.train()
            losses: list[float] = []
            order = _epoch_order(len(training), steps, settings, state.epoch, fabric)
            noise = torch.Generator(fabric.device).manual_seed(settings.seed * 1_000_003 + state.epoch)
            chance = torch.Generator().manual_seed(
                (settings.seed * 1_000_003 + state.epoch) * fabric.world_size + fabric.global_rank
            )
            for which in order:
                share = fabric.broadcast(_share_done(state, len(losses), steps, time.monotonic() - started, settings))
                if share >= 1:
                    break
                _set_learning_rate(optimizer, settings.learning_rate, share)
                batch = batches.training(training, which, chance)
                losses.append(training_step(fabric, model, optimizer, batch, loss_of, settings, noise))
                if not math.isfinite(losses[-1]):
                    raise TrainingError(
                        f"the loss is {losses[-1]} at epoch {state.epoch + 1}; lower learning_rate, now "
                        f"{settings.learning_rate:g}, or set precision to fp32"
                    )
                progress.update(share, f"loss {losses[-1]:.5f} held-out {state.best_loss:.5f}")
            held_out = _validation_loss(detector, validation, batches, loss_of, settings, fabric)
            # The first process's figures are every process's, so that all keep the same epoch and end at the same one.
            held_out, seconds = fabric.broadcast((held_out, time.monotonic() - started))
            _finish_epoch(detector, optimizer, state, losses, held_out, seconds)
            _record(records, state)
            if fabric.is_global_zero and time.monotonic() - saved_at >= settings.save_every_seconds:
                save_atomically(out / LAST_NAME, _resumable(detector, optimizer, state))
                saved_at = time.monotonic()
            if share >= 1:
                break
    records.finalize("success")
    return state


def training_step(
    fabric: Fabric,
    model: Any,  # noqa: ANN401 - Fabric's wrapper
    optimizer: Any,  # noqa: ANN401 - Fabric's wrapper
    batch: Batch,
    loss_of: LossFunction,
    settings: FitSettings,
    noise: torch.Generator,
) -> float:
    """Redraw a batch, improve the weights by it and return its loss."""
    seen = _add_noise(batch.disturbed, settings.noise, noise)
    loss = _loss(model.redraw_and_compare(seen, batch.position), batch, loss_of, settings)
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(loss)
    optimizer.step()
    return float(loss.detach())


def _is_over(state: _State, settings: FitSettings) -> bool:
    if settings.epochs is not None:
        return state.epoch >= settings.epochs
    limit = settings.time_limit_seconds
    return limit is not None and state.seconds >= limit and state.epoch > 0


def _share_done(state: _State, step: int, steps: int, seconds: float, settings: FitSettings) -> float:
    """Share of the fit that is done, 0..1; below 1 until the first step was made."""
    if settings.epochs is not None:
        return min((state.epoch * steps + step) / (settings.epochs * steps), 0.999999)
    share = seconds / (settings.time_limit_seconds or math.inf)
    return share if state.steps or step else min(share, 0.999999)


def _set_learning_rate(optimizer: Any, peak: float, share: float) -> None:  # noqa: ANN401 - Fabric's wrapper
    warm = min(1.0, (share + 1e-3) / _WARM_UP_SHARE)
    rate = peak * warm * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    for group in optimizer.param_groups:
        group["lr"] = max(rate, peak * 1e-3)


def _epoch_order(
    count: int, steps: int, settings: FitSettings, epoch: int, fabric: Fabric
) -> list[npt.NDArray[np.int64]]:
    """Batches of one epoch for this process; the whole order depends on seed and epoch alone."""
    random = np.random.default_rng([settings.seed, epoch])
    size = settings.batch * fabric.world_size
    passes = math.ceil(steps * size / count)
    order = np.concatenate([random.permutation(count) for _ in range(passes)])[: steps * size]
    return list(order.reshape(steps, fabric.world_size, settings.batch)[:, fabric.global_rank])


def _loss(
    output: tuple[torch.Tensor, torch.Tensor | None], batch: Batch, loss_of: LossFunction, settings: FitSettings
) -> torch.Tensor:
    """Join the loss between reconstruction and what it is to be with that of the comparator, in fp32."""
    reconstruction, logits = output
    # Not in bf16: SSIM's small variances vanish in it.
    loss = loss_of(reconstruction.float(), batch.target)
    if logits is None:
        return loss
    there = put_in(batch.disturbed, batch.images, settings.model)
    return loss + functional.binary_cross_entropy_with_logits(logits.float(), there)


def _add_noise(images: torch.Tensor, sigma: float, generator: torch.Generator) -> torch.Tensor:
    if sigma == 0:
        return images
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return (images + sigma * noise).clamp(0, 1)


def _validation_loss(
    detector: Detector,
    validation: Part,
    batches: BatchMaker,
    loss_of: LossFunction,
    settings: FitSettings,
    fabric: Fabric,
) -> float:
    detector.eval()
    places = np.linspace(0, len(validation) - 1, _VALIDATION_CLIPS).round().astype(np.int64)
    total = 0.0
    # The same crops and disturbances at every epoch, so that epochs compare.
    chance = torch.Generator().manual_seed(settings.seed)
    with torch.inference_mode():
        for start in range(0, len(places), settings.batch):
            batch = batches.held_out(validation, places[start : start + settings.batch], chance)
            with fabric.autocast():
                output = detector.redraw_and_compare(batch.disturbed, batch.position)
            total += float(_loss(output, batch, loss_of, settings)) * len(batch.images)
    return total / len(places)


def _finish_epoch(
    detector: Detector,
    optimizer: Any,  # noqa: ANN401 - Fabric's wrapper
    state: _State,
    losses: list[float],
    held_out: float,
    seconds: float,
) -> None:
    state.epoch += 1
    state.steps += len(losses)
    state.seconds = seconds
    if math.isfinite(held_out) and held_out < state.best_loss:
        state.best_loss = held_out
        state.best = {name: tensor.detach().cpu().clone() for name, tensor in detector.state_dict().items()}
    elif not state.best:
        raise TrainingError(f"the held-out loss is {held_out}; lower learning_rate or set precision to fp32")
    if losses:
        rate = optimizer.param_groups[0]["lr"]
        mean = float(np.mean(losses))
        state.records.append(EpochRecord(state.epoch, state.steps, round(seconds, 3), mean, held_out, rate))


def _record(records: TensorBoardLogger, state: _State) -> None:
    if state.records and state.records[-1].epoch == state.epoch:
        last = state.records[-1]
        values = {
            "loss/training": last.training_loss,
            "loss/held_out": last.validation_loss,
            "learning_rate": last.learning_rate,
        }
        records.log_metrics(values, step=last.steps)


def _resumable(detector: Detector, optimizer: Any, state: _State) -> dict[str, Any]:  # noqa: ANN401
    return {
        "footage": state.footage,
        "model": detector.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": state.epoch,
        "steps": state.steps,
        "seconds": state.seconds,
        "best_loss": state.best_loss,
        "best": state.best,
        "records": [asdict(record) for record in state.records],
    }


def _restore(resumed: dict[str, Any], detector: Detector, optimizer: Any, state: _State) -> None:  # noqa: ANN401
    detector.load_state_dict(resumed["model"])
    optimizer.load_state_dict(resumed["optimizer"])
    state.epoch, state.steps, state.seconds = resumed["epoch"], resumed["steps"], resumed["seconds"]
    state.best_loss, state.best = resumed["best_loss"], resumed["best"]
    state.records = [EpochRecord(**record) for record in resumed["records"]]


def _read_footage(clips: Sequence[Clip], settings: FitSettings, out: Path, console: Console, *, shown: bool) -> Footage:
    with StageProgress("reading footage", console, shown=shown) as progress:
        reader = FootageReader(
            settings.model.preprocessing, settings.limits, out, lambda count: progress.update(None, f"{count} frames")
        )
        footage = reader.read(clips)
    if settings.frames_per_second is not None:
        footage = Footage(footage.frames, footage.segments, settings.frames_per_second, footage.skipped)
    return footage


def _skip_frames(
    footage: Footage, parts: Sequence[Part], settings: FitSettings, out: Path, console: Console, *, shown: bool
) -> SkippedMotion | None:
    if "skip-frame" not in settings.kinds_put_in:
        return None
    with StageProgress("motion of skipped frames", console, shown=shown) as progress:
        total = sum(map(len, parts))
        return skip_frames(
            footage,
            parts,
            settings.model.preprocessing,
            out,
            lambda count: progress.update(count / total, f"{count} frames"),
        )


def _provenance(
    fabric: Fabric, settings: FitSettings, source: str, footage: Footage, state: _State, parts: tuple[Part, Part, Part]
) -> dict[str, Any]:
    return {
        "source": source,
        "clips": len({segment.clip for segment in footage.segments}),
        "skipped": list(footage.skipped),
        "frames": dict(zip(("training", "validation", "calibration"), map(len, parts), strict=True)),
        "frames_per_second": footage.frames_per_second,
        "epochs": state.epoch,
        "steps": state.steps,
        "training_seconds": round(state.seconds, 1),
        "best_epoch": min(state.records, key=lambda record: record.validation_loss).epoch,
        "best_validation_loss": state.best_loss,
        "device": str(fabric.device.type),
        "processes": fabric.world_size,
        "precision": "bf16-mixed" if "bf16" in str(fabric._precision.precision) else "fp32",  # noqa: SLF001
        "settings": settings.model_dump(mode="json"),
        "versions": {"framewatch": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
    }
