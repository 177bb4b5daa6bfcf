"""Public datasets are read as they are distributed: every clip, label and mask, and nothing that is none of these."""

import os
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from contract.clip import Clip
from contract.errors import ConfigError, FootageError, LabelError
from contract.source import open_source
from trainer import mat_file
from trainer.datasets import open_dataset
from trainer.labels import read_labels
from trainer.mat_file import read_mat_masks

HEIGHT, WIDTH = 24, 40
SHARED = Path(os.environ.get("FRAMEWATCH_DATA") or Path(__file__).parents[3] / "shared" / "data")


def picture(seed=0, *, colour=False):
    shape = (HEIGHT, WIDTH, 3) if colour else (HEIGHT, WIDTH)
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def mask_of(place=None, value=255):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if place is not None:
        mask[place] = value
    return mask


def write_images(folder, names, make=picture):
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), make(index))


def write_video(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (WIDTH, HEIGHT))
    for index in range(frames):
        writer.write(picture(index, colour=True))
    writer.release()


def write_hidden(*folders):
    """What macOS leaves in archives."""
    for folder in folders:
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        for name in ("._001.tif", "._001.bmp", "._UCSDped1.m"):
            (folder / name).write_bytes(b"\0\5\x16\7")


def clip_of(clips, name) -> Clip:
    (found,) = (clip for clip in clips if clip.name == name)
    return found


def counts(clips):
    return {clip.name: len(list(clip.frames())) for clip in clips}


def marked(labels, clip, frames):
    return labels.of_frames(clip, range(frames), whole=True).nonzero()[0].tolist()


def refused(kind, folder):
    """The one line that a dataset is refused with."""
    with pytest.raises(kind) as caught:
        open_dataset(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# UCSD


PED1_RANGES = """\
% frames with anomalies
TestVideoFile = {};
TestVideoFile{end+1}.gt_frame = [3:5];
TestVideoFile{end+1}.gt_frame = [1:2, 6:7];

TestVideoFile{end + 1}.gt_frame = [ 8 ];
"""


@pytest.fixture
def ped1(tmp_path):
    folder = tmp_path / "UCSDped1"
    names = [f"{number:03d}.tif" for number in range(1, 9)]
    for clip in (1, 2):
        write_images(folder / "Train" / f"Train{clip:03d}", names)
    for clip in (1, 2, 3):
        write_images(folder / "Test" / f"Test{clip:03d}", names)
    masks = [f"{number:03d}.bmp" for number in range(1, 9)]
    write_images(folder / "Test" / "Test002_gt", masks, lambda i: mask_of((5, 7) if i in (0, 1, 5, 6) else None))
    (folder / "Test" / "UCSDped1.m").write_text(PED1_RANGES)
    (folder / "Test" / "UCSDped1.m~").write_text("TestVideoFile{end+1}.gt_frame = [1:200];\n")
    write_hidden(folder, *folder.iterdir(), *(folder / "Train").iterdir())
    write_hidden(*(entry for entry in (folder / "Test").iterdir() if entry.is_dir()))
    return folder


def test_ucsd_ped1_has_frame_labels_of_all_clips_and_masks_of_some(ped1):
    dataset = open_dataset(ped1)
    assert (dataset.name, dataset.kind) == ("UCSD Ped1", "video")
    assert counts(dataset.train) == {"Train001": 8, "Train002": 8}
    assert counts(dataset.test) == {"Test001": 8, "Test002": 8, "Test003": 8}
    labels = dataset.labels
    assert marked(labels, "Test001", 8) == [2, 3, 4]
    assert marked(labels, "Test002", 8) == [0, 1, 5, 6]
    assert marked(labels, "Test003", 8) == [7]
    assert labels.has_masks
    assert [labels.has_masks_of(clip.name) for clip in dataset.test] == [False, True, False]
    assert np.argwhere(labels.mask("Test002", 6)).tolist() == [[5, 7]]
    assert not labels.mask("Test002", 7).any()
    with pytest.raises(LabelError, match="Test001 frame 0 has no mask"):
        labels.mask("Test001", 0)


def test_a_frame_of_a_tif_has_the_pixels_of_the_file(ped1):
    frame = next(iter(clip_of(open_dataset(ped1).test, "Test003").frames()))
    assert np.array_equal(cv2.imdecode(np.frombuffer(frame.data, np.uint8), cv2.IMREAD_UNCHANGED), picture(0))


def test_folders_of_masks_are_no_clips_where_the_source_is_ucsd_s_test_folder(ped1):
    assert [clip.name for clip in open_source(str(ped1 / "Test"))] == ["Test001", "Test002", "Test003"]
    shutil.rmtree(ped1 / "Test" / "Test002")
    assert [clip.name for clip in open_source(str(ped1 / "Test"))] == ["Test001", "Test002_gt", "Test003"]


def test_ucsd_s_labels_are_taken_as_file_and_as_folder(ped1):
    clips = ["Test001", "Test002", "Test003"]
    ranges = read_labels(ped1 / "Test" / "UCSDped1.m", clips)
    assert not ranges.has_masks
    assert marked(ranges, "Test002", 8) == [0, 1, 5, 6]
    assert ranges.of_frames("Test001", [4, 5], whole=False).tolist() == [True, False]
    both = read_labels(ped1 / "Test", clips)
    assert both.has_masks_of("Test002")
    assert marked(both, "Test003", 8) == [7]
    (ped1 / "Test" / "UCSDped1.m").unlink()
    with pytest.raises(LabelError, match="neither masks Test001_gt nor a file"):
        read_labels(ped1 / "Test", clips)
    for clip in ("Test001", "Test003"):
        shutil.copytree(ped1 / "Test" / "Test002_gt", ped1 / "Test" / f"{clip}_gt")
    masks = read_labels(ped1 / "Test", clips)
    assert [marked(masks, clip, 8) for clip in clips] == [[0, 1, 5, 6]] * 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PED1_RANGES + "TestVideoFile{end+1}.gt_frame = [1:2];", "4 lines are of clips Test001 to Test004, the source"),
        (PED1_RANGES.replace("[3:5]", "[5:3]"), "line 3: ranges count frames from 1"),
        (PED1_RANGES.replace("[3:5]", "[0:5]"), "line 3: ranges count frames from 1"),
        (PED1_RANGES.replace("[3:5]", "[3:5"), "line 3: expected TestVideoFile"),
        (PED1_RANGES.replace("[3:5]", "[3:2:9]"), "line 3: expected ranges of frames"),
        (PED1_RANGES.replace("[3:5]", "[a, b]"), "line 3: expected ranges of frames"),
        ("TestVideoFile = {};\n", "no line like"),
        ("\xff\xfe", "expected text"),
    ],
)
def test_ucsd_s_ranges_that_are_written_otherwise_are_refused_by_line(ped1, text, says):
    path = ped1 / "Test" / "UCSDped1.m"
    path.write_bytes(text.encode("latin-1"))
    message = refused(LabelError, ped1)
    assert says in message
    assert str(path) in message


def test_ucsd_s_ranges_beyond_the_clip_are_told_in_the_file_s_numbers(ped1):
    path = ped1 / "Test" / "UCSDped1.m"
    path.write_text(PED1_RANGES.replace("[ 8 ]", "[4:9]"))
    with pytest.raises(LabelError, match="line 6: last_frame 9 is outside clip Test003, which has frames 1 to 8"):
        open_dataset(ped1).labels.of_frames("Test003", range(8), whole=True)


def test_a_clip_without_anomalies_has_an_empty_range(ped1):
    path = ped1 / "Test" / "UCSDped1.m"
    path.write_text(PED1_RANGES.replace("[3:5]", "[]"))
    assert marked(open_dataset(ped1).labels, "Test001", 8) == []


def test_ucsd_s_masks_must_be_as_many_as_the_frames(ped1):
    (ped1 / "Test" / "Test002_gt" / "008.bmp").unlink()
    labels = open_dataset(ped1).labels
    with pytest.raises(LabelError, match="Test002 has 8 frames and 7 masks"):
        labels.of_frames("Test002", range(8), whole=True)


def test_damage_to_ucsd_s_files_is_told_by_the_file(ped1):
    (ped1 / "Test" / "Test002_gt" / "002.bmp").write_bytes(b"BM" + b"\0" * 40)
    (ped1 / "Test" / "Test003" / "004.tif").write_bytes(b"II*\0cut")
    dataset = open_dataset(ped1)
    with pytest.raises(LabelError, match=r"Test002_gt/002\.bmp cannot be decoded"):
        dataset.labels.mask("Test002", 1)
    with pytest.raises(FootageError, match=r"004\.tif cannot be decoded"):
        list(clip_of(dataset.test, "Test003").frames())


def test_masks_of_a_clip_that_is_not_there_are_refused(ped1):
    shutil.copytree(ped1 / "Test" / "Test002_gt", ped1 / "Test" / "Test009_gt")
    shutil.rmtree(ped1 / "Test" / "Test002_gt")
    with pytest.raises(LabelError, match="Test009_gt are of clip 'Test009'"):
        read_labels(ped1 / "Test", ["Test001", "Test002", "Test003"])


# Avenue


def write_mat(path, masks, variable="volLabel", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.empty((1, len(masks)), object)
    for index, mask in enumerate(masks):
        cells[0, index] = mask
    scipy.io.savemat(path, {"other": np.arange(30.0), variable: cells, "last": "text"}, **options)


def avenue_masks(frames, anomalous):
    return [mask_of((i, 2 * i + 1) if i in anomalous else None, 1) for i in range(frames)]


@pytest.fixture
def avenue(tmp_path):
    folder = tmp_path / "Avenue Dataset"
    for name, frames in (("01", 6), ("02", 5)):
        write_video(folder / "training_videos" / f"{name}.avi", frames)
        write_video(folder / "testing_videos" / f"{name}.avi", frames)
    masks = folder / "ground_truth_demo" / "testing_label_mask"
    write_mat(masks / "1_label.mat", avenue_masks(6, (2, 3)), do_compression=True)
    write_mat(masks / "2_label.mat", avenue_masks(5, (0,)))
    (folder / "training_vol").mkdir()
    write_hidden(folder, folder / "training_videos", folder / "testing_videos", masks)
    return folder


def test_avenue_s_masks_are_those_of_the_video_of_their_number(avenue):
    dataset = open_dataset(avenue)
    assert (dataset.name, dataset.kind) == ("CUHK Avenue", "video")
    assert counts(dataset.train) == counts(dataset.test) == {"01": 6, "02": 5}
    labels = dataset.labels
    assert labels.has_masks
    assert labels.has_masks_of("02")
    assert marked(labels, "01", 6) == [2, 3]
    assert marked(labels, "02", 5) == [0]
    assert labels.mask("01", 3).dtype == np.uint8
    assert labels.mask("01", 3).tolist() == mask_of((3, 7), 1).tolist()


@pytest.mark.parametrize(
    "place", ["testing_label_mask", "testing_label_mask/testing_label_mask", "../ground_truth_demo/testing_label_mask"]
)
def test_avenue_s_masks_are_found_wherever_their_archive_was_unpacked(avenue, place):
    (avenue / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(avenue / "ground_truth_demo" / "testing_label_mask", avenue / place)
    assert marked(open_dataset(avenue).labels, "01", 6) == [2, 3]


def test_avenue_s_folder_of_masks_is_taken_as_labels(avenue):
    labels = read_labels(avenue / "ground_truth_demo" / "testing_label_mask", ["01", "02"])
    assert marked(labels, "02", 5) == [0]
    with pytest.raises(LabelError, match="02 has 4 frames and 5 masks"):
        labels.of_frames("02", range(4), whole=True)


@pytest.mark.parametrize(
    ("clips", "says"),
    [
        (["01"], r"2_label\.mat is of clip 02, which is not in the source"),
        (["01", "02", "03"], "clip 03 of the source has no N_label.mat"),
        (["01", "street"], r"2_label\.mat is of clip 02"),
    ],
)
def test_avenue_s_masks_of_other_clips_are_refused(avenue, clips, says):
    with pytest.raises(LabelError, match=says):
        read_labels(avenue / "ground_truth_demo" / "testing_label_mask", clips)


def test_avenue_without_masks_is_refused(avenue):
    shutil.rmtree(avenue / "ground_truth_demo")
    assert "no masks; expected ground_truth_demo/testing_label_mask/1_label.mat" in refused(LabelError, avenue)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint16", "int64", "float32", "float64"])
def test_a_mat_file_is_read_as_scipy_reads_it(tmp_path, dtype, compressed):
    path = tmp_path / "1_label.mat"
    random = np.random.default_rng(0)
    masks = [random.integers(0, 2, (h, w)).astype(dtype) for h, w in ((7, 5), (1, 1), (2, 1), (HEIGHT, WIDTH))]
    write_mat(path, masks, do_compression=compressed)
    expected = scipy.io.loadmat(path)["volLabel"][0]
    read = read_mat_masks(path, "volLabel")
    assert [mask.unpack().tolist() for mask in read] == [mask.astype(int).tolist() for mask in expected]


def test_a_mat_file_of_the_other_byte_order_is_read(tmp_path):
    path = tmp_path / "1_label.mat"
    element = lambda kind, data: struct.pack(">II", kind, len(data)) + data + b"\0" * (-len(data) % 8)  # noqa: E731
    start = lambda kind, shape, name: (  # noqa: E731
        element(6, struct.pack(">II", kind, 0)) + element(5, struct.pack(">ii", *shape)) + element(1, name)
    )
    cell = element(14, start(6, (2, 3), b"") + element(3, struct.pack(">6h", 0, 1, 0, 0, 256, 0)))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(">H", 0x100) + b"MI"
    path.write_bytes(header + element(14, start(1, (1, 1), b"volLabel") + cell))
    assert read_mat_masks(path, "volLabel")[0].unpack().tolist() == [[0, 0, 1], [1, 0, 0]]
    assert scipy.io.loadmat(path)["volLabel"][0, 0].tolist() == [[0, 0, 256], [1, 0, 0]]


def write_nested(path, depth):
    """Cells in cells: what makes other readers call themselves until the process dies."""
    parts, size = [], 0
    for level in range(depth):
        name = b"volLabel" if level == depth - 1 else b""
        start = struct.pack("<IIII", 6, 8, 1, 0) + struct.pack("<IIii", 5, 8, 1, 1)
        start += struct.pack("<II", 1, len(name)) + name
        size += len(start) + 8
        parts.append(struct.pack("<II", 14, size - 8) + start)
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM" + b"".join(reversed(parts)))


def write_damaged_mat(path, what):
    masks = avenue_masks(6, (2,))
    if what == "nested":
        return write_nested(path, 50_000)
    if what == "7.3":
        return path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n")
    if what in ("text", "empty"):
        return path.write_bytes(b"no matrix" * 40 if what == "text" else b"")
    if what == "cube":
        masks[4] = np.zeros((4, 5, 6), np.uint8)
    if what == "hole":
        masks[4] = np.zeros((0, 0), np.uint8)
    if what == "words":
        masks[4] = "anomalous"
    if what == "complex":
        masks[4] = np.ones((3, 4), np.complex128)
    if what == "matrix":
        return scipy.io.savemat(path, {"volLabel": np.zeros((6, HEIGHT, WIDTH))})
    write_mat(path, masks, variable="label" if what == "name" else "volLabel", do_compression=what != "flat cut")
    data = path.read_bytes()
    if what in ("cut", "flat cut"):
        return path.write_bytes(data[: len(data) * 2 // 3])
    if what == "flipped":
        return path.write_bytes(data[:300] + bytes(255 - byte for byte in data[300:340]) + data[340:])
    return None


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("nested", "cell 1: expected a matrix of height x width, found a cell array"),
        ("7.3", "save it again with -v7"),
        ("text", "expected a MATLAB 5 file"),
        ("empty", "expected a MATLAB 5 file"),
        ("cube", "cell 5: expected a matrix of height x width, found a matrix of shape 4 x 5 x 6"),
        ("hole", "cell 5: expected a matrix of height x width, found a matrix of shape 0 x 0"),
        ("words", "cell 5: expected a matrix of height x width, found text"),
        ("complex", "cell 5: expected a matrix"),
        ("matrix", "expected a cell array of shape 1 x frames, found a matrix of shape 6 x 24 x 40"),
        ("name", "holds no variable volLabel"),
        ("cut", "cut short"),
        ("flat cut", "cut short"),
        ("flipped", ""),
    ],
)
def test_damaged_mat_files_are_refused_in_one_line(avenue, what, says):
    path = avenue / "ground_truth_demo" / "testing_label_mask" / "1_label.mat"
    write_damaged_mat(path, what)
    message = refused(LabelError, avenue)
    assert says in message
    assert str(path) in message


def test_a_mat_file_cut_anywhere_is_refused(tmp_path):
    whole = tmp_path / "whole.mat"
    write_mat(whole, avenue_masks(3, (1,)), do_compression=False)
    data = whole.read_bytes()
    end = data.index(b"last") - 48
    for size in range(0, end, 37):
        (tmp_path / "cut.mat").write_bytes(data[:size])
        with pytest.raises(LabelError):
            read_mat_masks(tmp_path / "cut.mat", "volLabel")


def test_a_compressed_mat_file_is_compared_with_its_checksum(tmp_path):
    path = tmp_path / "1_label.mat"
    cells = np.empty((1, 3), object)
    cells[0, :] = avenue_masks(3, (1,))
    scipy.io.savemat(path, {"volLabel": cells}, do_compression=True)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(LabelError, match="incorrect data check"):
        read_mat_masks(path, "volLabel")
    path.write_bytes(data[:-1])
    with pytest.raises(LabelError, match="does not end where its matrices do"):
        read_mat_masks(path, "volLabel")


def test_a_mat_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "1_label.mat"
    write_mat(path, [np.zeros((400, 400), np.uint8)] * 20, do_compression=True)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(mat_file, "_MAX_FILE_BYTES", 2**20)
    with pytest.raises(LabelError, match=r"1_label\.mat: it unpacks to more than 1048576 bytes"):
        read_mat_masks(path, "volLabel")
    monkeypatch.setattr(mat_file, "_MAX_FILE_BYTES", 2**30)
    monkeypatch.setattr(mat_file, "_MAX_MASK_BYTES", 1000)
    with pytest.raises(LabelError, match="cell 1 is no matrix of 1 to 1000 bytes"):
        read_mat_masks(path, "volLabel")


def test_a_mat_file_that_claims_a_billion_frames_costs_nothing(tmp_path):
    path = tmp_path / "1_label.mat"
    body = struct.pack("<IIII", 6, 8, 1, 0) + struct.pack("<IIii", 5, 8, 1, 10**9) + struct.pack("<II", 1, 8)
    matrix = struct.pack("<II", 14, 2**31) + body + b"volLabel"
    packed = zlib.compress(matrix)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"
    path.write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(LabelError, match="found a cell array of shape 1 x 1000000000"):
        read_mat_masks(path, "volLabel")


# ShanghaiTech


@pytest.fixture
def shanghaitech(tmp_path):
    folder = tmp_path / "shanghaitech"
    for name, frames in (("01_001", 4), ("12_015", 3)):
        write_video(folder / "training" / "videos" / f"{name}.avi", frames)
    testing = folder / "testing"
    for name, frames in (("01_0014", 5), ("03_0032", 4)):
        write_images(testing / "frames" / name, [f"{i:03d}.jpg" for i in range(frames)])
        labels = np.array([0, 1, 1, 0, 0][:frames], np.uint8)
        for kind in ("test_frame_mask", "test_pixel_mask"):
            (testing / kind).mkdir(exist_ok=True)
        np.save(testing / "test_frame_mask" / f"{name}.npy", labels)
        masks = np.stack([mask_of((3, 9) if label else None, 1) for label in labels])
        np.save(testing / "test_pixel_mask" / f"{name}.npy", masks)
    write_hidden(testing, testing / "frames", testing / "test_frame_mask")
    return folder


def test_shanghaitech_has_videos_to_train_on_and_frames_to_test_on(shanghaitech):
    dataset = open_dataset(shanghaitech)
    assert (dataset.name, dataset.kind) == ("ShanghaiTech", "video")
    assert counts(dataset.train) == {"01_001": 4, "12_015": 3}
    assert counts(dataset.test) == {"01_0014": 5, "03_0032": 4}
    assert marked(dataset.labels, "01_0014", 5) == marked(dataset.labels, "03_0032", 4) == [1, 2]
    assert dataset.labels.has_masks
    assert dataset.labels.mask("03_0032", 2).tolist() == mask_of((3, 9), 1).tolist()
    assert not dataset.labels.mask("03_0032", 3).any()


def test_shanghaitech_may_come_without_masks_or_without_labels(shanghaitech):
    testing = shanghaitech / "testing"
    shutil.move(testing / "test_pixel_mask", testing / "kept")
    labels = open_dataset(shanghaitech).labels
    assert not labels.has_masks
    assert marked(labels, "01_0014", 5) == [1, 2]
    shutil.move(testing / "kept", testing / "test_pixel_mask")
    shutil.rmtree(testing / "test_frame_mask")
    assert marked(open_dataset(shanghaitech).labels, "01_0014", 5) == [1, 2]
    shutil.rmtree(testing / "test_pixel_mask")
    assert "test_pixel_mask" in refused(LabelError, shanghaitech)


@pytest.mark.parametrize(("name", "masks"), [("", True), ("test_frame_mask", False), ("test_pixel_mask", True)])
def test_shanghaitech_s_folders_are_taken_as_labels(shanghaitech, name, masks):
    labels = read_labels(shanghaitech / "testing" / name, ["01_0014", "03_0032"])
    assert labels.has_masks == masks
    assert marked(labels, "01_0014", 5) == [1, 2]
    assert labels.of_frames("01_0014", [2, 4], whole=False).tolist() == [True, False]
    with pytest.raises(LabelError, match="03_0032 has 6 frames and 4 "):
        labels.of_frames("03_0032", range(6), whole=True)
    with pytest.raises(LabelError, match="frame 4 has no "):
        labels.of_frames("03_0032", [3, 4], whole=False)


class Ran:
    """The pickle of a code path that must never run."""

    def __reduce__(self):
        return os.mkdir, ("code-ran",)


def damage_array(path, what):
    if what == "pickle":
        return np.save(path, np.array([Ran()], object), allow_pickle=True)
    if what == "cut":
        return path.write_bytes(path.read_bytes()[:-2])
    if what == "text":
        return path.write_bytes(b"0 1 1 0 0")
    if what == "header":
        return path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"(" * 9000)
    if what == "huge":
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000,), }\n"
        return path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    if what == "zip":
        with path.open("wb") as file:
            return np.savez(file, labels=np.zeros(5, np.uint8))
    if what == "gone":
        return path.unlink()
    if what == "other":
        return shutil.copy(path, path.with_name("09_0001.npy"))
    values = {
        "words": np.array(["no", "yes"]), "level": np.array([0, 1, 2, 0, 0]), "nan": np.array([0, np.nan]),
        "table": np.zeros((5, 2), np.uint8), "empty": np.zeros((0, 4, 4), np.uint8), "record": np.zeros(5, "u1,u1"),
    }  # fmt: skip
    return np.save(path, values[what])


@pytest.mark.parametrize("folder", ["test_frame_mask", "test_pixel_mask"])
@pytest.mark.parametrize(
    "what",
    ["pickle", "cut", "text", "header", "huge", "zip", "other", "words", "level", "nan", "table", "empty", "record"],
)
def test_damaged_arrays_are_refused_and_run_no_code(shanghaitech, tmp_path, monkeypatch, folder, what):
    monkeypatch.chdir(tmp_path)
    path = shanghaitech / "testing" / folder / "01_0014.npy"
    damage_array(path, what)
    message = refused(LabelError, shanghaitech)
    assert str(path.parent) in message
    assert ("09_0001.npy" if what == "other" else "01_0014.npy") in message
    assert not (tmp_path / "code-ran").exists()


def test_shanghaitech_s_masks_may_be_of_some_clips_but_its_labels_not(shanghaitech):
    (shanghaitech / "testing" / "test_pixel_mask" / "01_0014.npy").unlink()
    labels = open_dataset(shanghaitech).labels
    assert [labels.has_masks_of(clip) for clip in ("01_0014", "03_0032")] == [False, True]
    assert marked(labels, "01_0014", 5) == [1, 2]
    damage_array(shanghaitech / "testing" / "test_frame_mask" / "01_0014.npy", "gone")
    assert "clip 01_0014 of the source has no 01_0014.npy" in refused(LabelError, shanghaitech)


# MVTec AD


@pytest.fixture
def screw(tmp_path):
    folder = tmp_path / "screw"
    colour = lambda index: picture(index, colour=True)  # noqa: E731
    write_images(folder / "train" / "good", [f"{i:03d}.png" for i in range(5)], colour)
    for kind, images in (("good", 3), ("scratch_head", 2), ("thread_side", 4)):
        names = [f"{i:03d}" for i in range(images)]
        write_images(folder / "test" / kind, [f"{name}.png" for name in names], colour)
        if kind != "good":
            masks = [f"{name}_mask.png" for name in names]
            write_images(folder / "ground_truth" / kind, masks, lambda i: mask_of((i, 11)))
    write_hidden(folder / "ground_truth", folder / "ground_truth" / "thread_side", folder / "test" / "good")
    for name in ("readme.txt", "license.txt"):
        (folder / name).write_text("MVTec AD")
    return folder


def test_mvtec_has_one_clip_a_kind_and_masks_of_those_that_are_defective(screw):
    dataset = open_dataset(screw)
    assert (dataset.name, dataset.kind) == ("MVTec AD screw", "images")
    assert counts(dataset.train) == {"good": 5}
    assert counts(dataset.test) == {"good": 3, "scratch_head": 2, "thread_side": 4}
    labels = dataset.labels
    assert marked(labels, "good", 3) == []
    assert marked(labels, "thread_side", 4) == [0, 1, 2, 3]
    assert labels.has_masks
    assert labels.mask("thread_side", 2).tolist() == mask_of((2, 11)).tolist()
    assert labels.mask("good", 1).tolist() == mask_of().tolist()


def test_mvtec_s_masks_are_taken_as_labels(screw):
    labels = read_labels(screw / "ground_truth", ["good", "scratch_head", "thread_side"])
    assert marked(labels, "good", 3) == []
    assert marked(labels, "scratch_head", 2) == [0, 1]
    assert labels.mask("scratch_head", 1).tolist() == mask_of((1, 11)).tolist()
    assert labels.mask("good", 0).tolist() == mask_of().tolist()
    with pytest.raises(LabelError, match="thread_side has 5 frames and 4 masks"):
        labels.of_frames("thread_side", range(5), whole=True)
    with pytest.raises(LabelError, match="masks scratch_head are of a kind that is not in the source"):
        read_labels(screw / "ground_truth", ["good", "thread_side"])


def test_mvtec_s_masks_must_be_of_the_images_there_are(screw):
    masks = screw / "ground_truth" / "thread_side"
    (masks / "001_mask.png").rename(masks / "007_mask.png")
    assert "thread_side/001 has no mask" in refused(LabelError, screw)
    (masks / "007_mask.png").rename(masks / "001_mask.png")
    (screw / "test" / "thread_side" / "003.png").unlink()
    assert "thread_side/003 has no image" in refused(LabelError, screw)
    shutil.rmtree(masks)
    assert "clip thread_side of the source has no folder with masks" in refused(LabelError, screw)


def test_a_damaged_mask_of_mvtec_is_told_by_the_file(screw):
    path = screw / "ground_truth" / "thread_side" / "001_mask.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(LabelError, match=r"thread_side/001_mask\.png cannot be decoded"):
        open_dataset(screw).labels.mask("thread_side", 1)


def test_images_without_masks_are_labelled_by_their_kind(screw):
    shutil.rmtree(screw / "ground_truth")
    labels = open_dataset(screw).labels
    assert not labels.has_masks
    assert marked(labels, "scratch_head", 2) == [0, 1]
    for name, number in (("good", "0"), ("scratch_head", "1")):
        (screw / "test" / name).rename(screw / "test" / number)
    shutil.rmtree(screw / "test" / "thread_side")
    dataset = open_dataset(screw)
    assert marked(dataset.labels, "0", 3) == []
    assert marked(dataset.labels, "1", 2) == [0, 1]
    with pytest.raises(LabelError, match="no masks"):
        dataset.labels.mask("1", 0)
    (screw / "test" / "0").rename(screw / "test" / "fine")
    assert "expected normal images in test/good" in refused(LabelError, screw)


# Videos with a CSV


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "ped"
    write_video(folder / "train" / "01.avi", 3)
    write_video(folder / "test" / "01.avi", 4)
    write_video(folder / "test" / "02.avi", 2)
    rows = [("01", i, int(i > 1)) for i in range(4)] + [("02", i, 0) for i in range(2)]
    lines = "".join(f"{clip},{frame},{label}\n" for clip, frame, label in rows)
    (folder / "frame_labels.csv").write_text("clip,frame,label\n" + lines)
    for clip, frames in (("01", 4), ("02", 2)):
        masks = [f"{i:03d}.png" for i in range(frames)]
        write_images(tmp_path / "test_masks" / clip, masks, lambda i: mask_of((1, i) if i > 1 else None))
    shutil.make_archive(str(folder / "test_masks"), "xztar", tmp_path, "test_masks")
    return folder


def test_videos_with_a_csv_have_masks_where_the_archive_is_there(videos):
    dataset = open_dataset(videos)
    assert (dataset.name, dataset.kind) == ("ped", "video")
    assert (counts(dataset.train), counts(dataset.test)) == ({"01": 3}, {"01": 4, "02": 2})
    assert marked(dataset.labels, "01", 4) == [2, 3]
    assert dataset.labels.mask("01", 3).tolist() == mask_of((1, 3)).tolist()
    (videos / "test_masks.tar.xz").unlink()
    labels = open_dataset(videos).labels
    assert not labels.has_masks
    assert marked(labels, "02", 2) == []


# Folders that are no dataset


def test_a_folder_of_no_known_layout_is_refused_with_what_was_expected(tmp_path):
    message = refused(ConfigError, tmp_path)
    assert str(tmp_path) in message
    for part in ("Train and Test", "training_videos", "training/videos", "train/good", "frame_labels.csv"):
        assert part in message
    assert "no such folder" in refused(ConfigError, tmp_path / "none")


def test_a_folder_of_datasets_is_refused_with_their_names(ped1, screw):
    assert "holds datasets (UCSDped1, screw); give one of them" in refused(ConfigError, ped1.parent)


def test_a_dataset_without_footage_is_refused(ped1):
    shutil.rmtree(ped1 / "Train")
    (ped1 / "Train").mkdir()
    assert "no video" in refused(ConfigError, ped1)


# What there is of the real ones


def test_ped2_and_screw_as_they_are_shared():
    if not (SHARED / "ped2").is_dir() or not (SHARED / "mvtec_screw").is_dir():
        pytest.skip(f"needs ped2 and mvtec_screw in {SHARED}; set FRAMEWATCH_DATA to where they are")
    ped2 = open_dataset(SHARED / "ped2")
    assert (len(ped2.train), len(ped2.test), ped2.kind) == (16, 12, "video")
    frames = len(list(clip_of(ped2.test, "03").frames()))
    # UCSDped2.m says [1:146] of the third clip.
    assert marked(ped2.labels, "03", frames) == list(range(146))
    assert ped2.labels.mask("03", 79).shape == (240, 360)
    assert ped2.labels.mask("03", 79).any()
    screw = open_dataset(SHARED / "mvtec_screw")
    assert (counts(screw.train), screw.kind) == ({"good": 320}, "images")
    assert counts(screw.test) == {"0": 41, "1": 119}
    assert not screw.labels.has_masks
    assert marked(screw.labels, "0", 41) == []
    assert len(marked(screw.labels, "1", 119)) == 119
