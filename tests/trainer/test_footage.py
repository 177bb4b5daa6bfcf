import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from contract.clip import Clip, SourceFrame
from contract.errors import ConfigError, FootageError
from contract.frame import FrameLimits, Preprocessing
from contract.source import VideoClip, open_source
from tests.footage import write_scene
from trainer.footage import Footage, FootageReader, Segment
from trainer.settings import FitSettings


def read(source, tmp_path):
    reader = FootageReader(Preprocessing(height=64, width=64), FrameLimits(), tmp_path, lambda _count: None)
    return reader.read(open_source(str(source)))


def test_parts_are_apart_in_time_and_no_clip_reaches_into_another(tmp_path):
    write_scene(tmp_path / "clips" / "a", 100)
    write_scene(tmp_path / "clips" / "b", 60, seed=1)
    footage = read(tmp_path / "clips", tmp_path)
    parts = footage.split(0.15, 0.2, 0.5)
    spans = []
    for part in parts:
        back = np.maximum(part.places[:, None] - np.arange(4), part.earliest[:, None])
        spans.append(set(back.ravel().tolist()))
    assert not spans[0] & spans[1]
    assert not spans[1] & spans[2]
    assert not spans[0] & spans[2]
    for first in (0, 100):
        last = 100 if first == 0 else 160
        ends = [max(place for place in part.places if first <= place < last) for part in parts]
        assert ends == sorted(ends)
    assert [len(part) for part in parts] == [55 + 33, 15 + 9, 20 + 12]


def test_a_clip_starts_with_its_first_frame_repeated(tmp_path):
    write_scene(tmp_path / "clip", 40)
    training, _, _ = read(tmp_path / "clip", tmp_path).split(0.15, 0.2, 0.5)
    clips = training.clips([0, 2], 4)
    assert clips.shape == (2, 4, 64, 64, 1)
    assert all(np.array_equal(clips[0, 0], frame) for frame in clips[0])
    assert np.array_equal(clips[1, 3], training.frames[2])
    assert np.array_equal(clips[1, 1], training.frames[0])


def test_frame_ranges_break_the_footage(tmp_path):
    write_scene(tmp_path / "clip", 60)
    footage = read(f"{tmp_path / 'clip'}#0:19,30:49", tmp_path)
    assert [(segment.start, segment.stop) for segment in footage.segments] == [(0, 20), (20, 40)]
    assert footage.frames_per_second == 10


def test_a_part_says_where_another_stretch_begins(tmp_path):
    write_scene(tmp_path / "clip", 100)
    footage = read(f"{tmp_path / 'clip'}#0:19,30:69,71:99", tmp_path)
    for part, lengths in zip(footage.split(0.2, 0.2, 0), ([12, 24, 17], [4, 8, 6], [4, 8, 6]), strict=True):
        assert [len(stretch) for stretch in np.split(part.places, part.breaks())] == lengths
        assert all((np.diff(stretch) == 1).all() for stretch in np.split(part.places, part.breaks()))


def stretches(*lengths):
    stops = np.cumsum(lengths)
    segments = [Segment(str(stop), stop - length, stop) for length, stop in zip(lengths, stops, strict=True)]
    return Footage(np.zeros((stops[-1], 2, 2, 1), np.uint8), segments, 10.0, [])


def test_of_many_stretches_whole_ones_are_held_out_evenly():
    footage = stretches(*[40] * 20, 5)
    parts = footage.split(0.15, 0.2, 0.5)
    assert [len(part) for part in parts] == [13 * 40 + 5, 3 * 40, 4 * 40]
    held_out = [sorted({place // 40 for place in part.places.tolist()}) for part in parts[1:]]
    for chosen in held_out:
        assert np.diff([-2, *chosen, 21]).max() <= 9
    owners = np.concatenate([np.full(len(part), which) for which, part in enumerate(parts)])
    owner_of = dict(zip(np.concatenate([part.places for part in parts]).tolist(), owners.tolist(), strict=True))
    assert all(len({owner_of[place] for place in range(s.start, s.stop)}) == 1 for s in footage.segments)


@pytest.mark.parametrize("lengths", [[40] * 7, [2000, *[20] * 9], [5] * 30 + [200]])
def test_few_or_unequal_stretches_are_split_in_time(lengths):
    footage = stretches(*lengths)
    longest = max(footage.segments, key=lambda segment: segment.stop - segment.start)
    for part in footage.split(0.15, 0.2, 0.5):
        assert any(longest.start <= place < longest.stop for place in part.places)


def test_the_rate_comes_from_capture_times(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 8, (64, 64))
    random = np.random.default_rng(0)
    for _ in range(30):
        writer.write(random.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    writer.release()
    assert read(tmp_path / "v.avi", tmp_path).frames_per_second == pytest.approx(8)


def test_a_broken_clip_costs_that_clip_alone(tmp_path, caplog):
    write_scene(tmp_path / "clips" / "good", 40)
    broken = write_scene(tmp_path / "clips" / "broken", 10, seed=2)
    (broken / "0003.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    footage = read(tmp_path / "clips", tmp_path)
    assert len(footage.frames) == 9 + 40
    assert "frame 3" in footage.skipped[0]
    assert "broken" in caplog.text


@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (lambda folder: write_scene(folder, 1), FootageError, "1 frames"),
        (lambda folder: write_scene(folder, 23), FootageError, "23 frames"),
    ],
)
def test_too_little_footage_is_refused(tmp_path, make, error, word):
    make(tmp_path / "clip")
    with pytest.raises(error, match=word):
        read(tmp_path / "clip", tmp_path)


def test_identical_frames_are_refused(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for index in range(30):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((64, 64), 90, np.uint8))
    with pytest.raises(FootageError, match="identical"):
        read(folder, tmp_path)


def test_mixed_sizes_in_one_clip_are_refused(tmp_path):
    folder = write_scene(tmp_path / "clip", 40)
    cv2.imwrite(str(folder / "0020.png"), np.zeros((50, 70), np.uint8))
    with pytest.raises(ConfigError, match="frame 20 is 70x50"):
        read(folder, tmp_path)


def test_a_live_source_needs_an_end(tmp_path):
    reader = FootageReader(Preprocessing(height=64, width=64), FrameLimits(), tmp_path, lambda _count: None)
    with pytest.raises(ConfigError, match="no end"):
        reader.read([VideoClip("door", "rtsp://127.0.0.1:1/door", live=True)])


def test_a_long_pause_breaks_the_footage_and_leaves_the_rate_alone(tmp_path):
    write_scene(tmp_path / "clip", 60)
    (clip,) = open_source(str(tmp_path / "clip"))
    pause = [
        SourceFrame(f.index, f.captured_at_ms + (3_600_000 if f.index >= 30 else 0), f.data) for f in clip.frames()
    ]
    footage = read_clip(Given("door", pause), tmp_path)
    assert footage.frames_per_second == pytest.approx(10)
    assert [(segment.start, segment.stop) for segment in footage.segments] == [(0, 30), (30, 60)]


def test_a_frame_in_a_hundred_may_be_bad_and_more_may_not(tmp_path):
    write_scene(tmp_path / "clip", 120)
    (clip,) = open_source(str(tmp_path / "clip"))
    frames = list(clip.frames())
    for bad, left in (({50}, 119), ({50, 51, 52}, None)):
        spoiled = [SourceFrame(f.index, f.captured_at_ms, b"x" if f.index in bad else f.data) for f in frames]
        if left is None:
            with pytest.raises(FootageError, match="3 of 120 frames cannot be decoded, the first is frame 50"):
                read_clip(Given("door", spoiled), tmp_path)
        else:
            footage = read_clip(Given("door", spoiled), tmp_path)
            assert len(footage.frames) == left
            assert [(segment.start, segment.stop) for segment in footage.segments] == [(0, 50), (50, 119)]
            assert "1 of 120" in footage.skipped[0]


def test_what_a_camera_gave_before_it_broke_off_is_kept(tmp_path):
    write_scene(tmp_path / "clip", 40)
    (clip,) = open_source(str(tmp_path / "clip"))
    camera = Given("door", list(clip.frames()), live=True, ranges=((0, 99),), fails="the camera is gone")
    footage = read_clip(camera, tmp_path)
    assert len(footage.frames) == 40
    assert "the camera is gone" in footage.skipped[0]


def test_parts_never_overlap_whatever_shares_are_accepted(tmp_path):
    write_scene(tmp_path / "clips" / "a", 100)
    write_scene(tmp_path / "clips" / "b", 100, seed=1)
    footage = read(tmp_path / "clips", tmp_path)
    parts = footage.split(0.4, 0.4, 100.0)
    places = [set(part.places.tolist()) for part in parts]
    assert all(places)
    assert not places[0] & places[1]
    assert not places[1] & places[2]
    assert not places[0] & places[2]
    with pytest.raises(ValidationError, match="fifth"):
        FitSettings(validation_share=0.49, calibration_share=0.49)


class Given(Clip):
    """A clip of frames that the test made."""

    def __init__(self, name, frames, *, live=False, ranges=(), fails=""):
        self.name, self.live, self.ranges = name, live, ranges
        self._frames, self._fails = frames, fails

    def frames(self):
        yield from self._frames
        if self._fails:
            raise FootageError(self._fails)


def read_clip(clip, folder):
    reader = FootageReader(Preprocessing(height=64, width=64), FrameLimits(), folder, lambda _count: None)
    return reader.read([clip])
