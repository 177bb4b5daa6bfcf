"""Public datasets as they are distributed: normal clips to train on, labelled clips to test on.

A dataset is told by the folders in it; nothing is moved or converted, and no frame is read before it is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from contract.clip import Clip
from contract.errors import ConfigError, LabelError
from contract.source import ImageClip, open_source
from trainer.label_kinds import Labels, MaskedLabels
from trainer.labels import read_labels
from trainer.mask_files import list_mask_folders, read_mask_archive
from trainer.public_labels import (
    NORMAL_KIND,
    read_avenue_labels,
    read_mvtec_labels,
    read_shanghaitech_labels,
    read_ucsd_labels,
    unmasked_images,
)

FRAME_LABELS: Final = "frame_labels.csv"
MASK_ARCHIVE: Final = "test_masks.tar.xz"

_AVENUE_MASKS: Final = (
    "ground_truth_demo/testing_label_mask",
    "testing_label_mask",
    "testing_label_mask/testing_label_mask",
    # The videos and the masks are distributed as two archives, each with a folder of its own in it.
    "../ground_truth_demo/testing_label_mask",
)
_NORMAL_KINDS: Final = (NORMAL_KIND, "0")


@dataclass(frozen=True)
class Dataset:
    """Footage of a public dataset and what is known of it.

    Attributes:
        name: Such as ``UCSD Ped2``.
        kind: ``video`` where the frames of a clip follow each other, ``images`` where they are independent.
        train: Clips without anomalies.
        test: Clips that the labels describe; of images, one a kind of defect and one of normal images.
        labels: Of the test clips.
    """

    name: str
    kind: Literal["video", "images"]
    train: Sequence[Clip]
    test: Sequence[Clip]
    labels: Labels


def open_dataset(folder: Path) -> Dataset:
    """Open a dataset: UCSD Ped1 or Ped2, CUHK Avenue, ShanghaiTech, a category of MVTec AD, or videos with a CSV.

    Reads the labels, but neither frames nor most masks; Avenue's masks, which are packed by clip, are all read.

    Args:
        folder: It holds ``Train`` and ``Test`` (UCSD), ``training_videos`` and ``testing_videos`` (Avenue),
            ``training/videos`` and ``testing/frames`` (ShanghaiTech), ``train/good`` and ``test`` (MVTec AD), or
            ``train``, ``test`` and ``frame_labels.csv``.

    Raises:
        ConfigError: The folder is laid out in no such way, or holds no footage.
        LabelError: The labels are missing, damaged, or of other clips.
    """
    if not folder.is_dir():
        raise ConfigError(f"dataset {folder}: no such folder")
    try:
        reader = _reader_of(folder)
        inner = [] if reader else sorted(entry.name for entry in folder.iterdir() if _reader_of(entry))
    except OSError as error:
        raise ConfigError(f"dataset {folder} cannot be read: {error.strerror}") from error
    if reader is not None:
        return reader(folder)
    if inner:
        raise ConfigError(f"dataset {folder}: holds datasets ({', '.join(inner[:5])}); give one of them")
    expected = "; ".join(f"{' and '.join(parts)} ({name})" for name, parts, _ in _LAYOUTS)
    raise ConfigError(f"dataset {folder}: its layout is not known; expected in it {expected}")


def _reader_of(folder: Path) -> Callable[[Path], Dataset] | None:
    for _, parts, reader in _LAYOUTS:
        if all((folder / part).exists() for part in parts):
            return reader
    return None


def _open_ucsd(folder: Path) -> Dataset:
    test = open_source(str(folder / "Test"))
    numbers = [number for number in "12" if (folder / "Test" / f"UCSDped{number}.m").is_file()]
    return Dataset(
        name=f"UCSD Ped{numbers[0]}" if numbers else f"UCSD {folder.resolve().name}",
        kind="video",
        train=open_source(str(folder / "Train")),
        test=test,
        labels=read_ucsd_labels(folder / "Test", _names(test)),
    )


def _open_avenue(folder: Path) -> Dataset:
    test = open_source(str(folder / "testing_videos"))
    for masks in (folder / name for name in _AVENUE_MASKS):
        if masks.is_dir() and any(masks.glob("*_label.mat")):
            break
    else:
        raise LabelError(f"dataset {folder}: no masks; expected {_AVENUE_MASKS[0]}/1_label.mat in it or beside it")
    return Dataset(
        name="CUHK Avenue",
        kind="video",
        train=open_source(str(folder / "training_videos")),
        test=test,
        labels=read_avenue_labels(masks, _names(test)),
    )


def _open_shanghaitech(folder: Path) -> Dataset:
    test = open_source(str(folder / "testing" / "frames"))
    return Dataset(
        name="ShanghaiTech",
        kind="video",
        train=open_source(str(folder / "training" / "videos")),
        test=test,
        labels=read_shanghaitech_labels(folder / "testing", _names(test)),
    )


def _open_mvtec(folder: Path) -> Dataset:
    test = open_source(str(folder / "test"))
    kinds = _names(test)
    normal = [kind for kind in _NORMAL_KINDS if kind in kinds][:1]
    if not normal:
        raise LabelError(f"dataset {folder}: expected normal images in test/good (or test/0), found {', '.join(kinds)}")
    masks = folder / "ground_truth"
    if masks.is_dir():
        _require_same_names(masks, [clip for clip in test if clip.name not in normal])
        labels = read_mvtec_labels(masks, kinds, normal)
    else:
        labels = unmasked_images(kinds, normal)
    return Dataset(
        name=f"MVTec AD {folder.resolve().name}",
        kind="images",
        train=open_source(str(folder / "train" / NORMAL_KIND)),
        test=test,
        labels=labels,
    )


def _open_videos(folder: Path) -> Dataset:
    test = open_source(str(folder / "test"))
    labels = read_labels(folder / FRAME_LABELS, _names(test))
    archive = folder / MASK_ARCHIVE
    if archive.is_file():
        labels = MaskedLabels(labels, read_mask_archive(archive, _names(test)))
    return Dataset(
        name=folder.resolve().name,
        kind="video",
        train=open_source(str(folder / "train")),
        test=test,
        labels=labels,
    )


def _require_same_names(masks: Path, clips: Sequence[Clip]) -> None:
    """Compare the names of masks with those of images: masks are taken in order, which a missing pair would shift."""
    found = list_mask_folders(masks)
    for clip in clips:
        images = [path.stem for path in clip.paths] if isinstance(clip, ImageClip) else []
        names = [mask.stem.removesuffix("_mask") for mask in found.get(clip.name, [])]
        for stem in [*images, *names]:
            if names and (stem not in images or stem not in names):
                missing = "image" if stem in names else "mask"
                raise LabelError(f"labels {masks}: {clip.name}/{stem} has no {missing}; expected one mask an image")


def _names(clips: Sequence[Clip]) -> list[str]:
    return [clip.name for clip in clips]


_LAYOUTS: Final[Sequence[tuple[str, Sequence[str], Callable[[Path], Dataset]]]] = (
    ("UCSD", ("Train", "Test"), _open_ucsd),
    ("Avenue", ("training_videos", "testing_videos"), _open_avenue),
    ("ShanghaiTech", ("training/videos", "testing/frames"), _open_shanghaitech),
    ("MVTec AD", ("train/good", "test"), _open_mvtec),
    ("videos", ("train", "test", FRAME_LABELS), _open_videos),
)
