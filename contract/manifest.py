"""The bundle: a folder of ONNX graphs and the manifest that says what they are and how far to trust them."""

import hashlib
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from contract.alert import BundleReference
from contract.drift import DriftReference
from contract.errors import BundleError
from contract.event import EventRule
from contract.frame import Preprocessing
from contract.scene import SceneReference
from contract.scoring import Calibration
from contract.settings import FrozenModel, one_line

SCHEMA_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
MODEL_CARD_NAME: Final = "MODEL_CARD.md"
SIGNATURE_NAME: Final = "manifest.json.sig"
GRAPH_NAMES: Final = ("encoder.onnx", "decoder.onnx", "detector.onnx")
_MAX_MANIFEST_BYTES: Final = 4 * 2**20

Precision = Literal["fp32", "fp16", "int8"]


class FileDigest(FrozenModel):
    """One file of the bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file."""

    size_bytes: int = Field(ge=0)
    """Its size, bytes."""


class ParityRow(FrozenModel):
    """How far one output of the graphs is from PyTorch's at one batch size."""

    output: str
    """``latent``, ``reconstruction``, ``anomaly_map``, ``anomaly_score`` or ``label``."""

    batch: int = Field(ge=1)
    """Batch size."""

    frames: int = Field(ge=1)
    """Frames compared."""

    largest_difference: float = Field(ge=0)
    """Largest absolute difference; for labels, the number that differ."""

    tolerance: float | None = Field(ge=0)
    """Largest difference accepted; null where the precision makes it a figure to know, and quality is bounded."""


class ModelShape(FrozenModel):
    """Shapes of what goes in and out of the graphs, batch left out."""

    clip_frames: int = Field(ge=1, le=64)
    """Consecutive frames that the detector takes; the last of them is the one scored."""

    redrawn_frames: int = Field(ge=1, le=64)
    """How many of them, the last ones, the encoder takes and the decoder redraws."""

    latent: tuple[int, ...]
    """Shape of a latent."""

    anomaly_map: tuple[int, int]
    """Rows and columns of an anomaly map."""


class Manifest(FrozenModel):
    """What a bundle says of itself."""

    schema_version: Literal[1] = 1
    """Version of this schema."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")
    """Name of the bundle."""

    version: str = Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")
    """Version of the bundle."""

    precision: Precision
    """Number format of the graphs' weights and arithmetic."""

    files: dict[str, FileDigest]
    """Every file beside the manifest, by name."""

    preprocessing: Preprocessing
    """How a frame becomes the model's input."""

    shape: ModelShape
    """Shapes of inputs and outputs."""

    calibration: Calibration
    """Threshold and how it was set."""

    event_rule: EventRule
    """How scores become events."""

    scene: SceneReference | None = None
    """What the camera usually shows; null where the footage showed no one place."""

    drift: DriftReference | None = None
    """Blocks of normal footage that later ones are compared with; null where the footage was too short for them."""

    training: dict[str, Any]
    """Where the model came from: settings, footage, frames, epochs, losses, versions."""

    parity: tuple[ParityRow, ...] = Field(min_length=1)
    """How far the graphs are from PyTorch."""

    quality: dict[str, float] = Field(default_factory=dict)
    """Measured effect of the precision, where it is not fp32."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        folder: Where it lies.
        manifest: What it says.
        digest: ``sha256:`` and the SHA-256 of its manifest.
    """

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def reference(self) -> BundleReference:
        """How alerts name it."""
        return BundleReference(name=self.manifest.name, version=self.manifest.version, digest=self.digest)

    def read_graph(self, name: str) -> bytes:
        """Read one ONNX graph and compare it with its digest again, so that what is checked is what is run.

        Raises:
            BundleError: The file changed since the bundle was opened.
        """
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(f"bundle file {path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name].sha256:
            raise BundleError(f"bundle file {path} changed while it was in use; build the bundle again")
        return data


def open_bundle(folder: Path, public_key: Path | None = None) -> Bundle:
    """Read and verify a bundle: who signed it where that matters, schema, the list of its files, and every digest.

    Args:
        folder: Of the bundle.
        public_key: Of whoever must have signed it, Ed25519 in PEM; None where anybody may have built it.

    Raises:
        BundleError: A file is missing, damaged, unreadable, not listed, a link, or the manifest is of another schema or
            not signed by the key.
        ConfigError: The key cannot be used.
    """
    try:
        return _open_bundle(folder, public_key)
    except OSError as error:
        raise BundleError(f"bundle {folder} cannot be read: {error.filename or folder}: {error.strerror}") from error


def sign_bundle(folder: Path, private_key: Path) -> Path:
    """Sign a whole bundle and name the signature's file, which is replaced where there is one.

    Raises:
        BundleError: It is not whole; see `open_bundle`.
        ConfigError: The key cannot be used; see `contract.signature.sign`.
    """
    from contract.signature import sign  # takes a tenth of a second, which only those who sign need

    digest = open_bundle(folder).digest
    data, path = (folder / MANIFEST_NAME).read_bytes(), folder / SIGNATURE_NAME
    if _digest(data) != digest:
        raise BundleError(f"bundle file {folder / MANIFEST_NAME} changed while it was in use; build the bundle again")
    signature = sign(data, private_key)
    # Never through what stands there, which may be a link to another file.
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(signature)
    return path


def digest_file(path: Path) -> FileDigest:
    """Measure a file for the manifest.

    Raises:
        OSError: It cannot be read.
    """
    data = path.read_bytes()
    return FileDigest(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def _open_bundle(folder: Path, public_key: Path | None) -> Bundle:
    manifest_path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise BundleError(f"bundle {folder}: no such folder; build one with: exporter build RUN --out {folder}")
    if not manifest_path.is_file():
        raise BundleError(f"bundle {folder} has no {MANIFEST_NAME}; build one with: exporter build RUN --out DIR")
    if manifest_path.is_symlink() or manifest_path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise BundleError(f"bundle file {manifest_path} is a link or larger than {_MAX_MANIFEST_BYTES} bytes")
    data = manifest_path.read_bytes()
    if public_key is not None:
        from contract.signature import require_signature

        require_signature(data, folder / SIGNATURE_NAME, public_key)
    manifest = _parse_manifest(manifest_path, data)
    missing = [name for name in (*GRAPH_NAMES, MODEL_CARD_NAME) if name not in manifest.files]
    if missing:
        raise BundleError(f"bundle file {manifest_path}: files lists no {missing[0]}")
    found = {entry.name for entry in folder.iterdir()} - {MANIFEST_NAME, SIGNATURE_NAME}
    unlisted = sorted(found - manifest.files.keys())
    if unlisted:
        raise BundleError(f"bundle {folder} holds {unlisted[0]}, which its manifest does not list; remove it")
    for name, expected in manifest.files.items():
        _verify_file(folder, name, expected)
    return Bundle(folder, manifest, _digest(data))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _parse_manifest(path: Path, data: bytes) -> Manifest:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"bundle file {path} is not JSON: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"bundle file {path}: schema_version is {version!r}, this version reads {SCHEMA_VERSION}; "
            "use a matching release or build the bundle again"
        )
    if "calibration" not in content:
        raise BundleError(f"bundle file {path} is not calibrated; fit and build again")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise BundleError(f"bundle file {path}: {one_line(error)}") from error


def _verify_file(folder: Path, name: str, expected: FileDigest) -> None:
    path = folder / name
    # What no file system takes as a name, such as a NUL, Python refuses with ValueError wherever it is used.
    if path.name != name or "\0" in name or not name.isprintable():
        raise BundleError(f"bundle manifest of {folder} lists {name!r}, which is not a plain file name")
    try:
        status = path.lstat()
    except OSError as error:
        raise BundleError(f"bundle file {path} is missing; build the bundle again") from error
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise BundleError(f"bundle file {path} is a link or no regular file; copy the bundle with its contents")
    if status.st_size != expected.size_bytes:
        raise BundleError(f"bundle file {path} has {status.st_size} bytes, its manifest says {expected.size_bytes}")
    if digest_file(path).sha256 != expected.sha256:
        raise BundleError(f"bundle file {path} differs from its digest in the manifest; copy or build it again")
