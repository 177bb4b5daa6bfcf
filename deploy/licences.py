"""Licences of the libraries in each image, by what the libraries say of themselves; ``make reference`` writes the page.

A library's own words are mapped to SPDX's names. What is neither permissive nor reviewed here is refused.
"""

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Final

from contract.errors import ConfigError

_LOCKS: Final = Path(__file__).parent / "images"
_IMAGES: Final = ("worker-cpu", "worker-cuda", "trainer", "console")
_PERMISSIVE: Final = frozenset({
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0",
    "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib",
})  # fmt: skip
_NVIDIA: Final = "LicenseRef-NVIDIA-Proprietary"
# Whole licences: what is asked for is kept as long as the library is an unchanged one beside the code.
_REVIEWED: Final = {
    "certifi": ("MPL-2.0", "unchanged; its source is what is installed"),
    "crc32c": ("LGPL-2.1-or-later", "unchanged, imported where it is installed, and may be replaced there"),
}
_WORDS: Final = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD",
    "gnu lesser general public license v2 or later (lgplv2+)": "LGPL-2.1-or-later",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "nvidia proprietary software": _NVIDIA,
    "python software foundation license": "PSF-2.0",
}
# They say nothing of themselves.
_UNSAID: Final = {"cuda-toolkit": _NVIDIA}

_SAYS: Final = """\
Framewatch is under Apache-2.0. These are the licences of the libraries in its images, as the libraries name them;
versions are in `deploy/images/*.lock`, and each image holds its own bill of materials."""
_SAYS_NVIDIA: Final = """\
- NVIDIA's libraries, under NVIDIA's own terms, in the images for GPUs alone: whoever passes such an image on passes
  these on, under those terms."""
_SAYS_INSIDE: Final = """\
What a library carries within itself has licences of its own, in files beside it: FFmpeg in OpenCV (LGPL-2.1), the
runtime of GCC in NumPy and SciPy (GPL-3.0 with the exception for programs that use it)."""


def libraries() -> dict[str, list[str]]:
    """Names of the libraries that the images' locks pin, each with its images."""
    found: dict[str, list[str]] = {}
    for image in _IMAGES:
        for name in re.findall(r"^([\w.-]+)==", (_LOCKS / f"{image}.lock").read_text(encoding="utf-8"), re.MULTILINE):
            found.setdefault(name, []).append(image)
    return dict(sorted(found.items()))


def licence(name: str) -> str:
    """What a library says of its licence, in SPDX's names where they are known.

    Raises:
        ConfigError: It is not installed here.
    """
    try:
        said = metadata(name)
    except PackageNotFoundError as error:
        raise ConfigError(f"{name} is in an image's lock and not installed; make install") from error
    # Looked for first: importlib_metadata, where it is imported, answers for the standard library, and raises.
    if "License-Expression" in said:
        return str(said["License-Expression"])
    text = str(said["License"]).strip() if "License" in said else ""
    classified = [one.rpartition(" :: ")[2] for one in said.get_all("Classifier", []) if one.startswith("License ::")]
    for words in map(str, (text, *classified)):
        spdx: str = _WORDS.get(words.lower(), words)
        if spdx in _PERMISSIVE or spdx in _WORDS.values():
            return spdx
    return _UNSAID.get(name) or f"unknown: {text[:40] or 'nothing is said'}"


def refused(licences: Mapping[str, str]) -> list[str]:
    """Libraries whose licence is neither permissive nor reviewed, each with it."""
    return [f"{name}: {said}" for name, said in licences.items() if not _is_allowed(name, said)]


def _is_allowed(name: str, said: str) -> bool:
    if name in _REVIEWED:
        return said == _REVIEWED[name][0]
    if said == _NVIDIA:
        return name.startswith(("nvidia-", "cuda-"))
    choices = said.replace("(", "").replace(")", "").split(" OR ")
    return any(all(one.strip() in _PERMISSIVE for one in choice.split(" AND ")) for choice in choices)


def page() -> str:
    """The page of licences, Markdown."""
    rows = [f"| {name} | {licence(name)} | {', '.join(images)} |" for name, images in libraries().items()]
    reviewed = [f"- {name}, {said}: {why}." for name, (said, why) in _REVIEWED.items()]
    return "\n".join([
        "# Licences", "", "*Written from what is installed by `make reference`.*", "",
        _SAYS, "", "Permissive ones are taken as they are. Reviewed one by one:", "", *reviewed, _SAYS_NVIDIA, "",
        _SAYS_INSIDE, "", "| library | licence | images |", "|---|---|---|", *rows, "",
    ])  # fmt: skip
