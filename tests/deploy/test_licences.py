"""Licences of what the images hold: permissive, or reviewed."""

import pytest

from contract.errors import ConfigError
from deploy.licences import libraries, licence, refused


def test_every_library_of_an_image_has_a_licence_that_is_allowed():
    held = libraries()
    assert {"numpy", "torch", "fastapi", "nvidia-cudnn-cu13"} <= held.keys()
    assert held["numpy"] == ["worker-cpu", "worker-cuda", "trainer", "console"]
    assert refused({name: licence(name) for name in held}) == []


def test_a_licence_is_read_where_another_library_answers_for_the_standard_one():
    # Once imported, it takes the place of importlib.metadata's finders, and raises where that says nothing.
    importlib_metadata = pytest.importorskip("importlib_metadata")
    unsaid = next(name for name in libraries() if "License-Expression" not in importlib_metadata.metadata(name))
    assert licence(unsaid)


def test_the_worker_and_the_console_hold_nothing_of_nvidia_s_without_a_gpu():
    proprietary = {name for name in libraries() if "NVIDIA" in licence(name)}
    assert len(proprietary) > 5
    assert not {image for name in proprietary for image in libraries()[name]} & {"worker-cpu", "console"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("some", "GPL-3.0-only"),
        ("some", "AGPL-3.0-or-later"),
        ("some", "MIT AND GPL-2.0-only"),
        ("some", "LGPL-2.1-or-later"),
        ("some", "LicenseRef-NVIDIA-Proprietary"),
        ("some", "unknown: nothing is said"),
        ("crc32c", "GPL-3.0-only"),
    ],
)
def test_a_licence_that_is_neither_permissive_nor_reviewed_is_refused(name, said):
    assert refused({"numpy": "BSD-3-Clause", name: said}) == [f"{name}: {said}"]


@pytest.mark.parametrize("said", ["MIT", "GPL-2.0-only OR MIT", "(MIT AND Zlib) OR GPL-3.0-only"])
def test_one_permissive_choice_is_enough(said):
    assert refused({"some": said}) == []


def test_a_library_that_is_not_installed_is_told():
    with pytest.raises(ConfigError, match="make install"):
        licence("no-such-library")
