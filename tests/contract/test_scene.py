import base64

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from contract.scene import Scene, SceneReference
from tests.footage import room_pictures

NORMAL = slice(0, 60)


@pytest.fixture(scope="module")
def room():
    return room_pictures(192, 128)


@pytest.fixture(scope="module")
def scene(room):
    reference = SceneReference.of(room[NORMAL], 1)
    assert reference is not None
    return Scene(SceneReference.model_validate_json(reference.model_dump_json()))


def shifted(picture, right, down):
    height, width = picture.shape
    moved = np.float32([[1, 0, right], [0, 1, down]])
    return cv2.warpAffine(picture, moved, (width, height), borderMode=cv2.BORDER_REFLECT)


def with_somebody(picture):
    out = picture.copy()
    out[20:, 60:115] = 90
    return out


def half_hidden(picture):
    out = picture.copy()
    out[:, :125] = 30
    return out


def noisy(picture, level, spread):
    chance = np.random.default_rng(0)
    return np.clip(level + chance.normal(0, spread, picture.shape), 0, 255).astype(np.uint8)


CASES = {
    "as it is": (None, lambda picture: picture),
    "half the light": (None, lambda picture: (picture * 0.5).astype(np.uint8)),
    "a tenth of the light": (None, lambda picture: (picture * 0.15 + 12).astype(np.uint8)),
    "half as light again": (None, lambda picture: np.clip(picture * 1.5 + 10, 0, 255).astype(np.uint8)),
    "noise": (None, lambda picture: noisy(picture, picture.astype(float), 8)),
    "somebody before a third of it": (None, with_somebody),
    "a pixel off": (None, lambda picture: shifted(picture, 1, 0)),
    "turned a little": ("moved", lambda picture: shifted(picture, 8, 3)),
    "turned far": ("moved", lambda picture: shifted(picture, 40, 12)),
    "a hand": ("covered", lambda picture: noisy(picture, 45, 2)),
    "a hand with light through it": ("covered", lambda picture: cv2.GaussianBlur(picture, (0, 0), 25)),
    "two thirds of it hidden": ("covered", half_hidden),
    "out of focus": ("covered", lambda picture: cv2.GaussianBlur(picture, (0, 0), 4)),
    "no light": ("black", lambda picture: noisy(picture, 3, 1)),
    "too much light": ("overexposed", lambda picture: np.clip(picture * 4.0 + 200, 0, 255).astype(np.uint8)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_told_on_every_frame_and_nothing_else(room, scene, name):
    expected, change = CASES[name]
    seen = [scene.condition(change(picture[..., 0])[..., None]) for picture in room[:60:6]]
    assert seen == [expected] * len(seen)


def test_visitors_are_no_fault_of_the_camera(room, scene):
    assert {scene.condition(picture) for picture in room} == {None}


def test_colour_is_compared_as_grey(room):
    coloured = np.repeat(room, 3, axis=3)
    reference = SceneReference.of(coloured[NORMAL], 3)
    assert reference == SceneReference.of(room[NORMAL], 1)
    assert Scene(reference).condition(coloured[10]) is None


def test_footage_of_several_places_has_no_usual_picture(room):
    chance = np.random.default_rng(1)
    elsewhere = [shifted(room[0, ..., 0], *chance.integers(-60, 60, 2))[..., None] for _ in range(40)]
    assert SceneReference.of(np.stack(elsewhere), 1) is None


def test_a_wall_has_no_usual_picture():
    assert SceneReference.of(np.full((40, 128, 192, 1), 120, np.uint8), 1) is None


@pytest.mark.parametrize("picture", ["not base64!", base64.b64encode(b"no picture").decode(), ""])
def test_a_reference_without_a_picture_is_refused(picture):
    with pytest.raises(ValidationError):
        SceneReference(picture=picture, usually_lost=0.1)
