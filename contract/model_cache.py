"""Versions of registered models, and the folder in which their bundles lie once they were downloaded."""

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Final, NamedTuple

from contract.errors import BundleError
from contract.manifest import open_bundle
from contract.model_address import ModelAddress

_DIGITS: Final = 12
_UNUSED_SECONDS: Final = 30 * 86400


class RegisteredModel(NamedTuple):
    """One version of a registered model.

    Attributes:
        name: Of the model.
        version: Its number.
        digest: Of the bundle, as `contract.manifest.Bundle.digest`.
        aliases: That name this version now.
        tags: Of the version.
        metrics: Of the run that made it; empty where they were not asked for, or are gone.
    """

    name: str
    version: int
    digest: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    metrics: dict[str, float]

    @property
    def address(self) -> ModelAddress:
        """The version's own."""
        return ModelAddress(self.name, version=self.version)


def cached_folder(cache: Path, found: RegisteredModel) -> Path:
    """Where a version's bundle lies in a cache."""
    return cache / found.name / f"{found.version}-{found.digest.removeprefix('sha256:')[:_DIGITS]}"


def drop_unused(folder: Path, kept: frozenset[Path]) -> None:
    """Note that a version is used now, and delete those of its model that were not for 30 days.

    Args:
        folder: Of the version, as `cached_folder` gives it.
        kept: Folders that stay, however long ago they were used.
    """
    # Whoever may not write there may neither note nor delete; what is used is used all the same.
    with contextlib.suppress(OSError):
        os.utime(folder)
        long_ago = time.time() - _UNUSED_SECONDS
        for other in folder.parent.iterdir():
            if other.is_dir() and other not in kept and other != folder and other.stat().st_mtime < long_ago:
                shutil.rmtree(other, ignore_errors=True)


def is_whole(folder: Path, digest: str, public_key: Path | None) -> bool:
    """Whether a folder holds a bundle, undamaged, signed where that is asked for."""
    try:
        return open_bundle(folder, public_key).digest == digest
    except BundleError:
        return False


def require_registered(folder: Path, found: RegisteredModel, public_key: Path | None) -> None:
    """Check that what was downloaded is the bundle that was registered.

    Raises:
        BundleError: It is not whole, not signed by the key, or another one.
    """
    try:
        digest = open_bundle(folder, public_key).digest
    except BundleError as error:
        # Without the place of the moment: who asks again is to see the same answer.
        said = str(error).replace(f"{folder}/", "").replace(str(folder), "of the registry")
        raise BundleError(said) from error
    if digest != found.digest:
        raise BundleError(f"the registry holds bundle {digest}, registered was {found.digest}")
