"""``worker embed`` and ``worker denoise``: the other two uses of an autoencoder."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from contract.clip import Clip
from contract.errors import FootageError, FrameError
from contract.frame import FrameLimits, decode_frame
from contract.manifest import Manifest
from contract.runtime import Autoencoder
from contract.scoring import FloatArray, frames_to_images
from contract.whole_folder import whole_folder
from contract.window import ClipWindow

_BATCH: Final = 16
_PICTURE_PX: Final = 900
_MARGIN_PX: Final = 80
_CLIP_COLOURS: Final = ((178, 114, 0), (0, 94, 213), (115, 158, 0), (167, 121, 204), (0, 159, 230), (233, 180, 86))

Batch = tuple[list[tuple[str, int]], FloatArray]


def embed(autoencoder: Autoencoder, manifest: Manifest, clips: Sequence[Clip], out: Path, limits: FrameLimits) -> int:
    """Write ``latents.npy``, ``frames.csv`` and a picture of the latents in two dimensions.

    Args:
        autoencoder: The bundle's halves.
        manifest: Of the bundle.
        clips: Footage.
        out: Folder to write; it must not exist or be empty.
        limits: What a frame may declare.

    Returns:
        The number of frames; ``latents.npy`` is float32 of shape (frames, *latent), ``frames.csv`` names its rows.

    Raises:
        ConfigError: The folder is in use.
        FootageError: A frame cannot be decoded, or there is none.
    """
    with whole_folder(out) as folder:
        rows: list[tuple[str, int]] = []
        latents: list[FloatArray] = []
        for places, images in _batches(manifest, clips, limits):
            rows += places
            latents.append(autoencoder.encode(images))
        if not rows:
            raise FootageError("the source gives no frame")
        everything = np.concatenate(latents)
        np.save(folder / "latents.npy", everything)
        with (folder / "frames.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("clip", "frame"), *rows])
        plane, shares = principal_components(everything.reshape(len(rows), -1))
        picture = _draw_plane(plane, shares, [clip for clip, _ in rows])
        (folder / "latents.png").write_bytes(bytes(cv2.imencode(".png", picture)[1]))
    return len(rows)


def denoise(autoencoder: Autoencoder, manifest: Manifest, clips: Sequence[Clip], out: Path, limits: FrameLimits) -> int:
    """Write each frame as the autoencoder redraws it, ``CLIP/000000.png``, at the model's input size.

    Returns:
        The number of frames.

    Raises:
        ConfigError: The folder is in use.
        FootageError: A frame cannot be decoded, or there is none.
    """
    own = manifest.preprocessing.last_picture
    count = 0
    with whole_folder(out) as folder:
        for places, images in _batches(manifest, clips, limits):
            pictures = autoencoder.decode(autoencoder.encode(images))[:, own].transpose(0, 2, 3, 1)
            for (clip, index), picture in zip(places, pictures, strict=True):
                target = folder / _folder_of(clip) / f"{index:06d}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                levels = np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
                target.write_bytes(bytes(cv2.imencode(".png", levels)[1]))
                count += 1
        if not count:
            raise FootageError("the source gives no frame")
    return count


def _folder_of(clip: str) -> PurePosixPath:
    # A camera may be named "..", and what is written must stay within the folder.
    return PurePosixPath(*(part if part.strip(".") else part.replace(".", "_") for part in clip.split("/")))


def principal_components(rows: FloatArray) -> tuple[FloatArray, tuple[float, float]]:
    """Project rows on the two directions in which they vary most (Pearson, 1901).

    Args:
        rows: float32 of shape (n, features).

    Returns:
        float32 of shape (n, 2), and the share of the variance along each, 0..1.
    """
    centred = rows - rows.mean(0)
    _, strengths, directions = np.linalg.svd(centred, full_matrices=False)
    padded = np.zeros((2, rows.shape[1]), np.float32)
    padded[: min(2, len(directions))] = directions[:2]
    total = float(np.sum(np.square(strengths))) or 1.0
    shares = [float(strength) ** 2 / total for strength in (*strengths[:2], 0.0, 0.0)]
    return (centred @ padded.T).astype(np.float32), (shares[0], shares[1])


def _batches(manifest: Manifest, clips: Sequence[Clip], limits: FrameLimits) -> Iterator[Batch]:
    for clip in clips:
        window = ClipWindow(manifest.shape.redrawn_frames, manifest.preprocessing)
        places: list[tuple[str, int]] = []
        gathered: list[npt.NDArray[np.uint8]] = []
        for frame in clip.frames():
            try:
                gathered.append(window.push(decode_frame(frame.data, manifest.preprocessing, limits)))
            except FrameError as error:
                raise FootageError(f"{clip.name} frame {frame.index} cannot be decoded: {error}") from error
            places.append((clip.name, frame.index))
            if len(gathered) == _BATCH:
                yield places, frames_to_images(np.stack(gathered))
                places, gathered = [], []
        if gathered:
            yield places, frames_to_images(np.stack(gathered))


def _draw_plane(plane: FloatArray, shares: tuple[float, float], clips: Sequence[str]) -> npt.NDArray[np.uint8]:
    picture = np.full((_PICTURE_PX, _PICTURE_PX, 3), 255, np.uint8)
    low, high = plane.min(0), plane.max(0)
    span = np.where(high > low, high - low, 1)
    inner = _PICTURE_PX - 2 * _MARGIN_PX
    spots = (plane - low) / span * inner + _MARGIN_PX
    spots[:, 1] = _PICTURE_PX - spots[:, 1]
    names = list(dict.fromkeys(clips))
    edge = _PICTURE_PX - _MARGIN_PX
    cv2.rectangle(picture, (_MARGIN_PX - 15, _MARGIN_PX - 15), (edge + 15, edge + 15), (200, 200, 200), 1, cv2.LINE_AA)
    places = {clip: [row for row, name in enumerate(clips) if name == clip] for clip in names}
    for number, clip in enumerate(names):
        colour = np.array(_CLIP_COLOURS[number % len(_CLIP_COLOURS)], np.float64)
        for age, row in enumerate(places[clip]):
            # Later frames are darker, so that a path can be followed.
            shade = colour * (1 - 0.6 * age / len(places[clip])) + 90 * (0.6 - 0.6 * age / len(places[clip]))
            centre = round(float(spots[row, 0])), round(float(spots[row, 1]))
            cv2.circle(picture, centre, 4, np.clip(shade, 0, 255).tolist(), -1, cv2.LINE_AA)
    _write(picture, f"{len(clips)} latents on their two principal components; later frames are darker", 24, 34)
    _write(picture, f"first: {shares[0]:.0%} of the variance", _PICTURE_PX // 2 - 120, _PICTURE_PX - 28)
    rotated = np.ascontiguousarray(np.rot90(picture, -1))
    _write(rotated, f"second: {shares[1]:.0%} of the variance", _PICTURE_PX // 2 - 120, 40)
    picture = np.ascontiguousarray(np.rot90(rotated))
    for number, clip in enumerate(names[: len(_CLIP_COLOURS)]):
        _write(picture, clip[:24], edge - 140, _MARGIN_PX + 8 + 22 * number, _CLIP_COLOURS[number])
    return picture


def _write(
    picture: npt.NDArray[np.uint8], text: str, x: int, y: int, colour: tuple[int, int, int] = (60, 60, 60)
) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)
