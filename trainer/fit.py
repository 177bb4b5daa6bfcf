"""The fit: footage in, run folder out. Reads top to bottom; one function for every variant of the model."""

import hashlib
import json
import logging
import math
import os
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

from contract import __version__
from contract.clip import Clip
from contract.errors import ConfigError, TrainingError
from trainer.calibrate import calibrate_detector, take_samples
from trainer.checkpoint import (
    CHECKPOINT_NAME,
    LAST_NAME,
    Checkpoint,
    Samples,
    load_tensors,
    save_atomically,
    save_checkpoint,
    save_samples,
)
from trainer.footage import Footage, FootageReader, Part
from trainer.losses import LossFunction, loss_function
from trainer.model import Autoencoder, Detector, to_images
from trainer.progress import StageProgress
from trainer.run_pictures import EpochRecord, draw_curves, draw_reconstructions
from trainer.settings import FitSettings

_WARM_UP_SHARE = 0.05
_MAX_VALIDATION_CLIPS = 512
_log = logging.getLogger(__name__)


@dataclass
class _State:
    """Where a fit stands at the end of an epoch; what a resumed one starts from."""

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
        The calibrated checkpoint, as written.

    Raises:
        ConfigError: The folder is in use, or the device asked for is not there.
        FootageError: The footage cannot be used.
        TrainingError: The loss is not finite.
    """
    fabric = _start_fabric(settings, out)
    resumed = _open_run(out, settings, source, first=fabric.is_global_zero)
    fabric.barrier()
    try:
        return _fit(fabric, clips, source, settings, out, resumed, console)
    except BaseException:
        if fabric.is_global_zero and not (out / LAST_NAME).exists():
            # Nothing to go on from: a mistake leaves no folder behind.
            shutil.rmtree(out, ignore_errors=True)
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
    fabric.seed_everything(settings.seed, workers=False, verbose=False)
    autoencoder = Autoencoder(settings.model)
    state = _train(fabric, autoencoder, training, validation, settings, out, resumed, console)
    fabric.barrier()

    autoencoder.load_state_dict(state.best)
    detector = Detector(autoencoder).to(fabric.device)
    fitted = calibrate_detector(
        detector,
        validation,
        calibration,
        frames_per_second=footage.frames_per_second,
        false_events_per_day=settings.false_events_per_day,
    )
    provenance = _provenance(fabric, settings, source, footage, state, (training, validation, calibration))
    checkpoint = Checkpoint(detector, fitted, settings.event_rule, provenance)
    if fabric.is_global_zero:
        _write_run(out, checkpoint, take_samples(detector, validation, calibration, settings.seed), state)
    fabric.barrier()
    return checkpoint


def _train(
    fabric: Fabric,
    autoencoder: Autoencoder,
    training: Part,
    validation: Part,
    settings: FitSettings,
    out: Path,
    resumed: dict[str, Any] | None,
    console: Console,
) -> _State:
    """Run epochs until the epochs or the minutes are over; keep the best weights by held-out loss."""
    state = _State()
    autoencoder = autoencoder.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    if resumed is not None:
        _restore(resumed, autoencoder, optimizer, state)
    model, optimizer = fabric.setup(autoencoder, optimizer)
    loss_of = loss_function(settings.loss)
    steps = max(settings.min_epoch_steps, math.ceil(len(training) / (settings.batch * fabric.world_size)))
    started = time.monotonic() - state.seconds
    saved_at = time.monotonic()
    share = 0.0

    with StageProgress("training", console, shown=fabric.is_global_zero) as progress:
        while not _is_over(state, settings):
            model.train()
            losses: list[float] = []
            order = _epoch_order(len(training), steps, settings, state.epoch, fabric)
            noise = torch.Generator(fabric.device).manual_seed(settings.seed * 1_000_003 + state.epoch)
            for which in order:
                share = fabric.broadcast(_share_done(state, len(losses), steps, time.monotonic() - started, settings))
                if share >= 1:
                    break
                _set_learning_rate(optimizer, settings.learning_rate, share)
                frames = torch.from_numpy(training.clips(which, settings.model.clip_frames)).to(fabric.device)
                images = to_images(frames).contiguous(memory_format=torch.channels_last)
                # The loss compares with the undisturbed input, so noise trains a denoiser.
                noisy = _add_noise(images, settings.noise, noise)
                loss = loss_of(model(noisy).float(), images)
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(loss)
                optimizer.step()
                losses.append(float(loss.detach()))
                if not math.isfinite(losses[-1]):
                    raise TrainingError(
                        f"the loss is {losses[-1]} at epoch {state.epoch + 1}; lower learning_rate, now "
                        f"{settings.learning_rate:g}, or set precision to fp32"
                    )
                progress.update(share, f"loss {losses[-1]:.5f} held-out {state.best_loss:.5f}")
            held_out = _validation_loss(autoencoder, validation, loss_of, settings, fabric)
            _finish_epoch(fabric, autoencoder, optimizer, state, losses, held_out, time.monotonic() - started)
            if fabric.is_global_zero and time.monotonic() - saved_at >= settings.save_every_seconds:
                save_atomically(out / LAST_NAME, _resumable(autoencoder, optimizer, state, settings))
                saved_at = time.monotonic()
            if share >= 1:
                break
    return state


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


def _add_noise(images: torch.Tensor, sigma: float, generator: torch.Generator) -> torch.Tensor:
    if sigma == 0:
        return images
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return (images + sigma * noise).clamp(0, 1)


def _validation_loss(
    autoencoder: Autoencoder, validation: Part, loss_of: LossFunction, settings: FitSettings, fabric: Fabric
) -> float:
    autoencoder.eval()
    count = min(len(validation), _MAX_VALIDATION_CLIPS)
    places = np.unique(np.linspace(0, len(validation) - 1, count).round().astype(np.int64))
    total = 0.0
    with torch.inference_mode(), fabric.autocast():
        for start in range(0, len(places), settings.batch):
            clips = validation.clips(places[start : start + settings.batch], settings.model.clip_frames)
            images = to_images(torch.from_numpy(clips).to(fabric.device)).contiguous(memory_format=torch.channels_last)
            total += float(loss_of(autoencoder(images).float(), images)) * len(clips)
    return total / len(places)


def _finish_epoch(
    fabric: Fabric, autoencoder: Autoencoder, optimizer: Any, state: _State, losses: list[float],  # noqa: ANN401
    held_out: float, seconds: float,
) -> None:  # fmt: skip
    state.epoch += 1
    state.steps += len(losses)
    state.seconds = seconds
    if math.isfinite(held_out) and held_out < state.best_loss:
        state.best_loss = held_out
        state.best = {name: tensor.detach().cpu().clone() for name, tensor in autoencoder.state_dict().items()}
    elif not state.best:
        raise TrainingError(f"the held-out loss is {held_out}; lower learning_rate or set precision to fp32")
    if not losses:
        return
    rate = optimizer.param_groups[0]["lr"]
    record = EpochRecord(state.epoch, state.steps, round(seconds, 3), float(np.mean(losses)), held_out, rate)
    state.records.append(record)
    values = {"loss/training": record.training_loss, "loss/held_out": held_out, "learning_rate": rate}
    fabric.log_dict(values, step=state.steps)


def _resumable(autoencoder: Autoencoder, optimizer: Any, state: _State, settings: FitSettings) -> dict[str, Any]:  # noqa: ANN401
    return {
        "settings": _fingerprint(settings),
        "model": autoencoder.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": state.epoch,
        "steps": state.steps,
        "seconds": state.seconds,
        "best_loss": state.best_loss,
        "best": state.best,
        "records": [asdict(record) for record in state.records],
    }


def _restore(resumed: dict[str, Any], autoencoder: Autoencoder, optimizer: Any, state: _State) -> None:  # noqa: ANN401
    autoencoder.load_state_dict(resumed["model"])
    optimizer.load_state_dict(resumed["optimizer"])
    state.epoch, state.steps, state.seconds = resumed["epoch"], resumed["steps"], resumed["seconds"]
    state.best_loss, state.best = resumed["best_loss"], resumed["best"]
    state.records = [EpochRecord(**record) for record in resumed["records"]]


def _fingerprint(settings: FitSettings) -> str:
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()


def _open_run(out: Path, settings: FitSettings, source: str, *, first: bool) -> dict[str, Any] | None:
    """Make the run folder, or find in it the state of the same fit, stopped."""
    what = {"framewatch": __version__, "source": source, "settings": settings.model_dump(mode="json")}
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder")
    if (out / CHECKPOINT_NAME).exists():
        raise ConfigError(f"--out {out} holds a finished run; name another folder or remove it")
    last = out / LAST_NAME
    stopped = _read_json(out / "settings.json")
    if stopped is None and out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"--out {out} holds other files; name a new or empty folder")
    if stopped is not None and stopped != what:
        raise ConfigError(f"--out {out} holds a fit that was stopped and had other settings or footage; name another")
    resumed = load_tensors(last) if last.is_file() else None
    if first:
        out.mkdir(parents=True, exist_ok=True)
        (out / "settings.json").write_text(json.dumps(what, indent=2) + "\n", encoding="utf-8")
        if resumed is not None:
            _log.warning("going on from epoch %d of the fit that was stopped in %s", resumed["epoch"], out)
    return resumed


def _read_json(path: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON; name another --out folder") from error


def _start_fabric(settings: FitSettings, out: Path) -> Fabric:
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise ConfigError(
            "device: cuda was asked for and no CUDA device can be used; see nvidia-smi, or say --device cpu"
        )
    accelerator = "cuda" if cuda and settings.device != "cpu" else "cpu"
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and _bf16_is_faster(accelerator))
    on_this_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // on_this_node
    fabric = Fabric(
        accelerator=accelerator,
        devices=on_this_node,
        num_nodes=nodes,
        precision="bf16-mixed" if bf16 else "32-true",
        loggers=TensorBoardLogger(root_dir=out, name="tensorboard", version=""),
    )
    fabric.launch()
    return fabric


def _bf16_is_faster(accelerator: str) -> bool:
    """Whether the device multiplies bf16 by itself; emulated, it is slower than fp32."""
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def _read_footage(clips: Sequence[Clip], settings: FitSettings, out: Path, console: Console, *, shown: bool) -> Footage:
    with StageProgress("reading footage", console, shown=shown) as progress:
        reader = FootageReader(
            settings.model.preprocessing, settings.limits, out, lambda count: progress.update(None, f"{count} frames")
        )
        footage = reader.read(clips)
    if settings.frames_per_second is not None:
        footage = Footage(footage.frames, footage.segments, settings.frames_per_second, footage.skipped_clips)
    return footage


def _provenance(
    fabric: Fabric, settings: FitSettings, source: str, footage: Footage, state: _State, parts: tuple[Part, Part, Part]
) -> dict[str, Any]:
    return {
        "source": source,
        "clips": len({segment.clip for segment in footage.segments}),
        "skipped_clips": list(footage.skipped_clips),
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


def _write_run(out: Path, checkpoint: Checkpoint, samples: Samples, state: _State) -> None:
    """Write what people and the exporter read; the checkpoint comes last, so that a run folder with one is whole."""
    save_samples(out, samples)
    draw_curves(state.records, out / "curves.png")
    draw_reconstructions(checkpoint.detector, samples, out / "reconstructions.png")
    summary = {
        "training": checkpoint.training,
        "calibration": checkpoint.calibration.model_dump(mode="json"),
        "epochs": [asdict(record) for record in state.records],
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    save_checkpoint(out, checkpoint)
    (out / LAST_NAME).unlink(missing_ok=True)
