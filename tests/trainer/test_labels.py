"""Labels mean what they say in each of their forms, and wrong ones are refused in one line that names the place."""

import io
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from contract.errors import LabelError
from trainer import mask_files
from trainer.labels import read_labels

_PED2 = Path(__file__).parents[3] / "shared" / "data" / "ped2"


def _csv(folder, text):
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def _mask(*, marked, suffix=".png"):
    picture = np.zeros((12, 20), np.uint8)
    picture[3, 4] = 1 if marked else 0
    return cv2.imencode(suffix, picture)[1].tobytes()


def _mask_files(frames=4, marked=(2,), clip="a", name="{:03d}.png"):
    return {f"{clip}/{name.format(i)}": _mask(marked=i in marked) for i in range(frames)}


def _write(kind, folder, files):
    if kind == "folder":
        path = folder / "masks"
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path
    path = folder / f"masks.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(f"top/{name}", data)
        return path
    with tarfile.open(path, {"tar": "w", "tar.xz": "w:xz"}[kind]) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"top/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_frames_are_labelled_line_by_line(tmp_path):
    path = _csv(tmp_path, "\ufeffclip,frame,label\na,1,1\na,0,0\nb,0,1\na,2,0\n\n")
    labels = read_labels(path, ["a", "b"])
    assert labels.of_frames("a", [0, 1, 2], whole=True).tolist() == [False, True, False]
    assert labels.of_frames("b", [0], whole=True).tolist() == [True]
    assert not labels.has_masks


def test_frames_count_in_the_whole_clip_where_ranges_were_taken_out(tmp_path):
    frames = read_labels(_csv(tmp_path, "clip,frame,label\n" + "".join(f"a,{i},{i % 2}\n" for i in range(9))), ["a"])
    assert frames.of_frames("a", [3, 4, 8], whole=False).tolist() == [True, False, False]
    ranges = read_labels(_csv(tmp_path, "clip,first_frame,last_frame,label\na,4,99,fall\n"), ["a"])
    assert ranges.of_frames("a", [3, 4, 8], whole=False).tolist() == [False, True, True]


def test_ranges_hold_both_ends_and_what_they_do_not_name_is_normal(tmp_path):
    rows = "a,1,2,fall\na,4,4,0\na,5,5,Normal\na,6,6,\na,2,3,1\n"
    labels = read_labels(_csv(tmp_path, "clip,first_frame,last_frame,label\n" + rows), ["a", "b"])
    assert labels.of_frames("a", range(8), whole=True).nonzero()[0].tolist() == [1, 2, 3]
    assert not labels.of_frames("b", range(3), whole=True).any()


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.xz"])
def test_masks_label_frames_and_pixels(tmp_path, kind):
    files = {**_mask_files(), **_mask_files(clip="b", frames=2, marked=(), name="{}.bmp"), "notes.txt": b"x"}
    labels = read_labels(_write(kind, tmp_path, files), ["a", "b"])
    assert labels.has_masks
    assert labels.of_frames("a", [0, 1, 2, 3], whole=True).tolist() == [False, False, True, False]
    assert not labels.of_frames("b", [0, 1], whole=True).any()
    assert np.argwhere(labels.mask("a", 2)).tolist() == [[3, 4]]
    assert labels.of_frames("a", [2, 3], whole=False).tolist() == [True, False]


def test_masks_whose_names_have_no_single_number_come_in_natural_order(tmp_path):
    files = {f"a/cam2_{i}.png": _mask(marked=i == 10) for i in (10, 9, 8)}
    labels = read_labels(_write("folder", tmp_path, files), ["a"])
    assert labels.of_frames("a", [0, 1, 2], whole=True).tolist() == [False, False, True]


_FRAMES = "clip,frame,label\n"
_RANGES = "clip,first_frame,last_frame,label\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1"),
        ("clip;frame;label\na;0;1\n", "line 1: expected the header"),
        (f"{_FRAMES}a,0,0\nz,0,0\n", "line 3: clip 'z'"),
        (f"{_FRAMES}a,zero,0\n", "line 2: frame must be a number"),
        (f"{_FRAMES}a,-1,0\n", "line 2: frame must be a number"),
        (f"{_FRAMES}a,{'9' * 5000},0\n", "line 2: frame must be a number"),
        (f"{_FRAMES}a,0,2\n", "line 2: label must be 0 or 1"),
        (f"{_FRAMES}a,0\n", "line 2: expected 3 fields"),
        (f"{_FRAMES}a,0,0\na,0,1\n", "line 3: frame 0 of clip a has a line already"),
        (_FRAMES, "clip a of the source has no line"),
        (f"{_RANGES}a,5,4,fall\n", "line 2: last_frame 4 is before first_frame 5"),
        (f"{_RANGES}a,0,1.5,fall\n", "line 2: last_frame must be a number"),
        (f'{_FRAMES}a,0,"0\n', "not a CSV"),
    ],
)
def test_wrong_csv_is_refused_by_file_line_and_field(tmp_path, text, says):
    path = _csv(tmp_path, text)
    with pytest.raises(LabelError) as caught:
        read_labels(path, ["a"])
    message = str(caught.value)
    assert says in message
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{_FRAMES}a,0,0\na,1,0\na,2,0\na,3,1\n", "line 5: frame 3 is outside clip a, which has frames 0 to 2"),
        (f"{_FRAMES}a,0,0\na,2,0\n", "clip a frame 1 has no line"),
        (f"{_RANGES}a,1,3,fall\n", "line 2: last_frame 3 is outside clip a"),
        (f"{_RANGES}a,7,9,fall\n", "line 2: first_frame 7 is outside clip a"),
    ],
)
def test_labels_of_other_frames_than_the_clip_has_are_refused(tmp_path, text, says):
    labels = read_labels(_csv(tmp_path, text), ["a"])
    with pytest.raises(LabelError, match=says):
        labels.of_frames("a", [0, 1, 2], whole=True)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (_mask_files(clip="z"), "clip 'z', which is not in the source"),
        ({"readme.txt": b""}, "clip a of the source has no folder"),
        ({**_mask_files(), "a/2.png": _mask(marked=True)}, "of the same frame"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_masks_of_other_clips_are_refused(tmp_path, kind, files, says):
    with pytest.raises(LabelError, match=says):
        read_labels(_write(kind, tmp_path, files), ["a"])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (_mask_files(frames=3), "4 frames and 3 masks"),
        ({f"a/{i}.png": _mask(marked=False) for i in (1, 2, 3, 4)}, "frame 0 has no mask; masks must be numbered"),
        ({**_mask_files(), "a/001.png": b"\x89PNG\r\n\x1a\nnot one"}, "a/001.png cannot be decoded"),
        ({**_mask_files(), "a/001.png": b""}, "a/001.png cannot be decoded"),
    ],
)
def test_masks_that_do_not_fit_the_frames_are_refused(tmp_path, files, says):
    labels = read_labels(_write("folder", tmp_path, files), ["a"])
    with pytest.raises(LabelError, match=says):
        labels.of_frames("a", [0, 1, 2, 3], whole=True)


@pytest.mark.parametrize(
    ("kind", "says"),
    [("zip", "archive cannot be read"), ("tar.xz", "archive cannot be read"), ("tar", "40 frames and")],
)
def test_an_archive_cut_short_is_refused(tmp_path, kind, says):
    # A tar without compression may end anywhere between two members: then it is the number of masks that tells.
    path = _write(kind, tmp_path, _mask_files(frames=40))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LabelError, match=says):
        read_labels(path, ["a"]).of_frames("a", range(40), whole=True)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(mask_files, "_MAX_MASK_BYTES", 1000)
    path = _write(kind, tmp_path, {**_mask_files(), "a/004.png": b"\x00" * 1001})
    with pytest.raises(LabelError, match=r"mask top/a/004\.png passes the limit"):
        read_labels(path, ["a"])


def test_a_file_of_no_known_kind_is_refused(tmp_path):
    with pytest.raises(LabelError, match="no such file"):
        read_labels(tmp_path / "none.csv", ["a"])
    (tmp_path / "labels.mat").write_bytes(b"MATLAB 5.0\xff\xfe")
    with pytest.raises(LabelError, match="expected a CSV in UTF-8"):
        read_labels(tmp_path / "labels.mat", ["a"])


def test_ped2_masks_agree_with_its_frame_labels():
    if not _PED2.is_dir():
        pytest.skip(f"needs UCSD Ped2 in {_PED2}")
    clips = [f"{number:02d}" for number in range(1, 13)]
    masks = read_labels(_PED2 / "test_masks.tar.xz", clips)
    frames = read_labels(_PED2 / "frame_labels.csv", clips)
    indices = range(120)
    for clip in clips:
        given = frames.of_frames(clip, indices, whole=False)
        assert np.array_equal(masks.of_frames(clip, indices, whole=False), given)
    assert masks.mask("03", 79).shape == (240, 360)
