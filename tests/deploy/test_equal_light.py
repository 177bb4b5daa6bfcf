from pathlib import Path

import cv2
import numpy as np
import pytest

from contract.clip import Clip, SourceFrame
from deploy.equal_light import EqualLight, equally_light, lightness_auroc
from trainer.datasets import Dataset
from trainer.label_kinds import RangeLabels


class Shades(Clip):
    def __init__(self, name, levels):
        self.name, self._levels = name, levels

    def frames(self):
        for index, level in enumerate(self._levels):
            picture = np.full((16, 16), level, np.uint8)
            picture[:4, :4] = level // 2
            yield SourceFrame(index, index * 100, cv2.imencode(".png", picture)[1].tobytes())


@pytest.fixture
def dataset():
    test = [Shades("normal", [100, 101, 104]), Shades("wrong", [100, 150, 160])]
    labels = RangeLabels(Path("labels.csv"), {"normal": [], "wrong": [(0, 2, True, 1)]})
    return Dataset("Made", "images", [Shades("good", [118, 120, 126])], test, labels)


def pictures(clip):
    return [cv2.imdecode(np.frombuffer(frame.data, np.uint8), cv2.IMREAD_GRAYSCALE) for frame in clip.frames()]


def test_pictures_become_as_light_as_those_of_the_training(dataset):
    for clip, before in zip(equally_light(dataset), dataset.test, strict=True):
        assert clip.name == before.name
        assert [frame.index for frame in clip.frames()] == [frame.index for frame in before.frames()]
        for picture in pictures(clip):
            assert np.median(picture) == 120
            assert picture[0, 0] == pytest.approx(60, abs=1)


def test_a_black_picture_stays_one():
    assert not pictures(EqualLight(Shades("night", [0]), 120))[0].any()


def test_lightness_alone_tells_until_it_is_equal(dataset):
    assert lightness_auroc(dataset.test, dataset) == pytest.approx(6.5 / 9)
    assert lightness_auroc(equally_light(dataset), dataset) == 0.5
