import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from kafka import KafkaProducer

from contract.errors import BrokerUnavailableError, ConfigError, FootageError
from contract.kafka_source import KafkaClip, captured_at_ms
from contract.source import open_source, without_credentials
from deploy.broker import Topic, create_topics
from tests.footage import write_scene


def write_video(path, frames=12, fps=5):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
    for index in range(frames):
        writer.write(np.full((48, 64, 3), 10 * index % 250, np.uint8))
    writer.release()
    return path


def brightness(frame):
    return float(cv2.imdecode(np.frombuffer(frame.data, np.uint8), cv2.IMREAD_GRAYSCALE).mean())


def children():
    me = f"PPid:\t{os.getpid()}\n"
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if me in status.read_text() and "video_process" in (status.parent / "cmdline").read_text():
                found.append(status.parent.name)
        except OSError:
            continue
    return found


def test_a_video_gives_jpeg_frames_in_order_with_their_times(tmp_path):
    (clip,) = open_source(str(write_video(tmp_path / "door.avi")))
    frames = list(clip.frames())
    assert clip.name == "door"
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.captured_at_ms for frame in frames] == [200 * index for index in range(12)]
    assert all(frame.data.startswith(b"\xff\xd8") for frame in frames)
    assert [brightness(frame) for frame in frames] == pytest.approx([10 * index for index in range(12)], abs=3)


def test_reading_twice_gives_the_same_bytes(tmp_path):
    (clip,) = open_source(str(write_video(tmp_path / "door.avi")))
    assert list(clip.frames()) == list(clip.frames())


def test_frame_ranges_are_inclusive_and_keep_the_index(tmp_path):
    (clip,) = open_source(f"{write_video(tmp_path / 'door.avi')}#0:1,5:7")
    frames = list(clip.frames())
    assert [frame.index for frame in frames] == [0, 1, 5, 6, 7]
    assert brightness(frames[-1]) == pytest.approx(70, abs=3)


def test_a_range_beyond_the_end_is_an_error_after_the_frames_there_are(tmp_path):
    (clip,) = open_source(f"{write_video(tmp_path / 'door.avi')}#9:40")
    frames = clip.frames()
    assert [frame.index for frame in islice(frames, 3)] == [9, 10, 11]
    with pytest.raises(FootageError, match="ends at frame 11, before frame 40"):
        next(frames)


def test_folders_of_videos_and_of_image_folders_are_in_natural_order(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in ("10", "9", "1"):
        write_video(tmp_path / "videos" / f"{name}.avi")
        write_scene(tmp_path / "images" / name, 2)
    assert [clip.name for clip in open_source(str(tmp_path / "videos"))] == ["1", "9", "10"]
    assert [clip.name for clip in open_source(str(tmp_path / "images"))] == ["1", "9", "10"]


def test_a_folder_of_folders_of_videos_names_them_after_both(tmp_path):
    for place in ("day10/door", "day10/yard", "day9/door", "day9/yard"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        write_video(tmp_path / f"{place}.avi", 3)
    write_scene(tmp_path / "stills", 2)
    clips = open_source(str(tmp_path))
    assert [clip.name for clip in clips] == ["day9/door", "day9/yard", "day10/door", "day10/yard", "stills"]
    assert [len(list(clip.frames())) for clip in clips] == [3, 3, 3, 3, 2]


def test_hidden_entries_are_passed_over_in_every_folder(tmp_path):
    write_scene(tmp_path / "door", 2)
    write_scene(tmp_path / ".trash", 2)
    for name in (".hidden.png", "notes.txt"):
        (tmp_path / "door" / name).write_bytes(b"x")
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "notes").mkdir()
    (clip,) = open_source(str(tmp_path))
    assert (clip.name, len(list(clip.frames()))) == ("door", 2)


def test_a_folder_of_masks_beside_its_clip_is_no_clip(tmp_path):
    for name in ("Test001", "Test001_gt", "Test002", "yard_gt"):
        write_scene(tmp_path / name, 2)
    assert [clip.name for clip in open_source(str(tmp_path))] == ["Test001", "Test002", "yard_gt"]


def test_a_name_that_is_not_utf_8_is_read_and_told_in_ascii(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_video(tmp_path / "door.avi", 3).rename(tmp_path / f"{name}.avi")
    (clip,) = open_source(str(tmp_path / f"{name}.avi"))
    assert (clip.name, len(list(clip.frames()))) == ("caf\\xe9", 3)
    folder = tmp_path / "stills"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.bmp"), np.zeros((48, 64), np.uint8))
    (folder / "a.bmp").rename(folder / f"{name}.bmp")
    (clip,) = open_source(str(folder.rename(tmp_path / name)))
    assert (clip.name, len(list(clip.frames()))) == ("caf\\xe9", 1)


def test_jpeg_and_png_files_pass_through_and_others_become_png(tmp_path):
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64).astype(np.uint8)
    for name in ("2.jpg", "10.png", "1.bmp", "3.tif"):
        cv2.imwrite(str(tmp_path / name), pixels)
    (clip,) = open_source(str(tmp_path))
    frames = list(clip.frames())
    assert frames[1].data == (tmp_path / "2.jpg").read_bytes()
    assert frames[3].data == (tmp_path / "10.png").read_bytes()
    for frame in (frames[0], frames[2]):
        assert np.array_equal(cv2.imdecode(np.frombuffer(frame.data, np.uint8), cv2.IMREAD_UNCHANGED), pixels)


def test_a_file_whose_name_has_a_hash_is_itself(tmp_path):
    path = write_video(tmp_path / "a#1:2.avi")
    assert len(list(open_source(str(path))[0].frames())) == 12


def test_closing_early_ends_the_decoder(tmp_path):
    frames = open_source(str(write_video(tmp_path / "door.avi", 300)))[0].frames()
    next(frames)
    assert children()
    frames.close()
    assert not children()


def test_a_damaged_video_is_a_footage_error_and_leaves_no_process(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(np.random.default_rng(0).bytes(10_000))
    (clip,) = open_source(str(tmp_path / "bad.mp4"))
    with pytest.raises(FootageError, match=r"bad\.mp4"):
        list(clip.frames())
    assert not children()


def test_a_decoder_that_dies_is_a_footage_error(tmp_path):
    frames = open_source(str(write_video(tmp_path / "door.avi", 3000)))[0].frames()
    next(frames)
    (child,) = children()
    os.kill(int(child), signal.SIGABRT)
    with pytest.raises(FootageError, match="decoder died"):
        list(frames)


class Camera(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for level in range(0, 250, 5):
            data = cv2.imencode(".jpg", np.full((48, 64, 3), level, np.uint8))[1].tobytes()
            try:
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + data + b"\r\n")
            except OSError:
                return
            time.sleep(0.02)

    def log_message(self, *arguments):
        pass


def test_a_network_camera_is_read_live_until_the_frame_asked_for():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        before = time.time() * 1000
        (clip,) = open_source(f"http://127.0.0.1:{server.server_port}/door.mjpg#0:9")
        assert clip.live
        frames = list(clip.frames())
        assert len(frames) == 10
        assert before - 1000 <= frames[0].captured_at_ms <= frames[-1].captured_at_ms <= time.time() * 1000 + 1000
    finally:
        server.shutdown()
        server.server_close()


def test_a_camera_that_does_not_answer_is_a_footage_error():
    (clip,) = open_source("rtsp://127.0.0.1:1/door")
    with pytest.raises(FootageError, match="cannot be opened"):
        list(clip.frames())


SECRET = "S3cret"
CAMERA = f"rtsp://admin:{SECRET}@10.0.0.5/stream1?token={SECRET}"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (CAMERA, "rtsp://***@10.0.0.5/stream1?token=***"),
        (f"{CAMERA}#0:10", "rtsp://***@10.0.0.5/stream1?token=***#0:10"),
        (f"{CAMERA}&{SECRET}", "rtsp://***@10.0.0.5/stream1?token=***&***"),
        ("rtsp://admin@10.0.0.5:554/a", "rtsp://***@10.0.0.5:554/a"),
        (f" rtsp://admin:{SECRET}@10.0.0.5/a", " rtsp://***@10.0.0.5/a"),
        (f"rtsp://h/user=admin&password={SECRET}&channel=1.sdp", "rtsp://h/user=***&password=***&channel=1.sdp"),
        (f"rtsp://admin:{SECRET}@x/{SECRET}@10.0.0.5/a", "rtsp://***@10.0.0.5/a"),
        (f"rtsp://admin:x/{SECRET}@10.0.0.5/a", "rtsp://***@10.0.0.5/a"),
        (f"rtsp://admin:1/{SECRET}@10.0.0.5/a", "rtsp://***@10.0.0.5/a"),
        (f"rtsp://admin:x?{SECRET}@10.0.0.5/a", "rtsp://***@10.0.0.5/a"),
        (f"rtsp://admin:x#{SECRET}@10.0.0.5/a", "rtsp://***@10.0.0.5/a"),
        (f"http://[::1]:80/a?{SECRET}", "http://[::1]:80/a?***"),
        (f"http://10.0.0.5:80/a?key={SECRET}#{SECRET}", "http://10.0.0.5:80/a?key=***"),
        (f"http://10.0.0.5/a?mail=me@{SECRET}", "http://10.0.0.5/a?mail=***"),
        ("http://10.0.0.5:80/a", "http://10.0.0.5:80/a"),
        ("http://10.0.0.5/@me", "http://10.0.0.5/@me"),
        ("kafka://h:1/t?camera=a&from=1&to=2&key=x", "kafka://h:1/t?camera=a&from=1&to=2&key=***"),
        (f"kafka://me:{SECRET}@h:1/t?camera=a", "kafka://***@h:1/t?camera=a"),
        ("deploy/footage/room.mp4#0:60", "deploy/footage/room.mp4#0:60"),
        ("me@home?a=b.mp4", "me@home?a=b.mp4"),
        ("/dev/video0", "/dev/video0"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(source, shown):
    assert without_credentials(source) == shown


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (f"{CAMERA}#0:10", "10.0.0.5-stream1"),
        ("http://[::1]:8080/door.mjpg", "1-8080-door.mjpg"),
        ("/dev/video3", "dev-video3"),
        ("3", "3"),
        ("rtsp://admin:pw@/", "camera"),
    ],
)
def test_a_camera_is_named_by_host_and_path(source, name):
    assert [clip.name for clip in open_source(source)] == [name]


def test_a_camera_s_password_is_in_no_message_and_on_no_command_line():
    frames = open_source(f"rtsp://admin:{SECRET}@127.0.0.1:1/door?token={SECRET}#0:3")[0].frames()
    lines = []

    def watch():
        deadline = time.monotonic() + 20
        while not lines and time.monotonic() < deadline:
            lines.extend(Path(f"/proc/{child}/cmdline").read_text() for child in children())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(FootageError, match=r"rtsp://\*\*\*@127\.0\.0\.1:1/door") as caught:
        list(frames)
    watcher.join()
    assert lines
    assert SECRET not in str(caught.value) + "".join(lines)


@pytest.mark.parametrize(
    "source",
    [
        f"{CAMERA}#x",
        f"{CAMERA}#5:1",
        f"ftp://admin:{SECRET}@10.0.0.5/a",
        f"kafka://me:{SECRET}@127.0.0.1:1/frames?camera=a",
        f"kafka://me:x/{SECRET}@127.0.0.1:1/frames?camera=a",
        f"kafka://me:x?{SECRET}@127.0.0.1:1/frames?camera=a",
        f"kafka://127.0.0.1:1/frames?camera=a&password={SECRET}",
        f"kafka://127.0.0.1:1/frames?camera=a&{SECRET}",
        f"kafka://127.0.0.1:99999/frames?camera=a&password={SECRET}",
    ],
)
def test_a_source_that_is_refused_is_told_without_its_password(source):
    with pytest.raises(ConfigError) as caught:
        open_source(source)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["kafka.example", "10.0.0.5", "[2001:db8::1]", "localhost.example", "127.0.0.1.example"]
)
def test_frames_leave_a_machine_unprotected_only_where_that_is_said(host):
    source = f"kafka://{host}:9092/frames?camera=a"
    for more in ("", "&allow_plaintext=false"):
        with pytest.raises(ConfigError, match="allow_plaintext=true"):
            open_source(source + more)
    with pytest.raises(ConfigError, match="true or false"):
        open_source(f"{source}&allow_plaintext=1")
    assert open_source(f"{source}&allow_plaintext=true")[0].bootstrap_servers == f"{host}:9092"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_frames_of_this_machine_need_no_word_for_it(host):
    assert isinstance(open_source(f"kafka://{host}:9092/frames?camera=a")[0], KafkaClip)


@pytest.mark.parametrize(
    ("headers", "timestamp", "expected"),
    [
        ([], 5, 5),
        ([("captured-at-ms", b"7")], 5, 7),
        ([("other", b"7"), ("captured-at-ms", b"8"), ("captured-at-ms", b"9")], 5, 8),
        ([("captured-at-ms", None)], 5, 5),
        ([("captured-at-ms", b"-7")], 5, 5),
        ([("captured-at-ms", b"7.5")], 5, 5),
        ([("captured-at-ms", b"9" * 16)], 5, 5),
        ([("captured-at-ms", b"9" * 15)], 5, 253_402_300_799_000),
        ([], -1, 0),
        ([], None, 0),
        ([], 10**18, 253_402_300_799_000),
    ],
)
def test_capture_time_is_the_header_s_or_the_record_s(headers, timestamp, expected):
    assert captured_at_ms(SimpleNamespace(headers=headers, timestamp=timestamp)) == expected


@pytest.mark.broker
class TestKafka:
    @pytest.fixture
    def topic(self, broker, request):
        name = f"source-{request.node.name}"[:100]
        create_topics(broker, {name: Topic(2)})
        return name

    def send(self, broker, topic, count, *, transaction=False):
        more = {"transactional_id": f"{topic}-tx"} if transaction else {}
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, **more)
        if transaction:
            producer.init_transactions()
            producer.begin_transaction()
        for index in range(count):
            for camera in ("door", "yard"):
                value = f"{camera}{index}".encode()
                producer.send(topic, value, key=camera.encode(), timestamp_ms=1_000_000 + 1000 * index).get(timeout=20)
        if transaction:
            producer.commit_transaction()
        producer.close()

    def read(self, broker, topic, query="", camera="door"):
        (clip,) = open_source(f"kafka://{broker.bootstrap_servers}/{topic}?camera={camera}{query}")
        return list(clip.frames())

    def test_one_camera_s_frames_in_order(self, broker, topic):
        self.send(broker, topic, 10)
        frames = self.read(broker, topic)
        assert [frame.data for frame in frames] == [f"door{index}".encode() for index in range(10)]
        assert [frame.captured_at_ms for frame in frames] == [1_000_000 + 1000 * index for index in range(10)]

    def test_from_is_included_and_to_is_not(self, broker, topic):
        self.send(broker, topic, 10)
        frames = self.read(broker, topic, "&from=1003000&to=1970-01-01T00:16:47Z")
        assert [frame.data for frame in frames] == [f"door{index}".encode() for index in range(3, 7)]
        assert self.read(broker, topic, "&from=9000000") == []
        assert self.read(broker, topic, "&from=1003001&to=1003002") == []

    def test_transaction_markers_at_the_end_do_not_hang(self, broker, topic):
        self.send(broker, topic, 3, transaction=True)
        frames = []
        # A broker says that a transaction is committed a moment before its marker can be read.
        for _ in range(50):
            frames = self.read(broker, topic)
            if frames:
                break
            time.sleep(0.1)
        assert len(frames) == 3

    def test_aborted_records_are_left_out_and_the_header_s_time_is_the_frame_s(self, broker, topic):
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, transactional_id=f"{topic}-aborted")
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(topic, b"never", key=b"door", timestamp_ms=1_000_000).get(timeout=20)
        producer.abort_transaction()
        producer.close()
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        headers = [("captured-at-ms", b"777")]
        producer.send(topic, b"frame", key=b"door", timestamp_ms=1_000_000, headers=headers).get(timeout=20)
        producer.close()
        assert [(frame.captured_at_ms, frame.data) for frame in self.read(broker, topic)] == [(777, b"frame")]

    def test_an_unknown_camera_gives_nothing_and_an_unknown_topic_an_error(self, broker, topic):
        self.send(broker, topic, 1)
        assert self.read(broker, topic, camera="attic") == []
        with pytest.raises(FootageError, match="is not on"):
            self.read(broker, "no-such-topic")


def test_a_broker_that_is_down_is_said_so():
    (clip,) = open_source("kafka://127.0.0.1:1/frames?camera=door")
    with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1"):
        list(clip.frames())


@pytest.mark.parametrize("source", ["", "  ", "nowhere.mp4", "kafka://x", "nowhere#1:2"])
def test_what_names_nothing_is_refused(source):
    with pytest.raises(ConfigError):
        open_source(source)


def test_a_folder_of_images_is_one_clip_at_ten_frames_a_second(tmp_path):
    (clip,) = open_source(str(write_scene(tmp_path / "door", 12)))
    frames = list(clip.frames())
    assert (clip.name, clip.live) == ("door", False)
    assert [(frame.index, frame.captured_at_ms) for frame in frames] == [(i, 100 * i) for i in range(12)]
    assert [frame.data for frame in frames] == [(tmp_path / "door" / f"{i:04d}.png").read_bytes() for i in range(12)]


def test_one_image_is_a_clip(tmp_path):
    (clip,) = open_source(str(write_scene(tmp_path / "door", 1) / "0000.png"))
    assert clip.name == "0000"
    assert len(list(clip.frames())) == 1


def test_ranges_of_images_keep_the_index_and_end_where_the_images_do(tmp_path):
    folder = write_scene(tmp_path / "door", 12)
    assert [frame.index for frame in open_source(f"{folder}#1:2, 11:11")[0].frames()] == [1, 2, 11]
    frames = open_source(f"{folder}#10:12")[0].frames()
    assert [next(frames).index, next(frames).index] == [10, 11]
    with pytest.raises(FootageError, match="ends at frame 11, before frame 12"):
        next(frames)


def test_names_in_any_digits_have_one_order(tmp_path):
    names = ["a", "1", "01", "2", "9", "10", "1\u00b22", "\u0663", "10b", "b1"]
    for name in names:
        write_scene(tmp_path / name, 1)
    order = [clip.name for clip in open_source(str(tmp_path))]
    assert sorted(order) == sorted(names)
    assert order == ["a", "b1", "01", "1", "1\u00b22", "2", "\u0663", "9", "10", "10b"]


def test_a_folder_named_by_a_number_is_no_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_source("7")[0].live
    write_scene(tmp_path / "7", 2)
    assert not open_source("7")[0].live


@pytest.mark.parametrize("written", [".", "../door", "inner/.."])
def test_a_folder_has_its_own_name_however_it_is_written(tmp_path, monkeypatch, written):
    (write_scene(tmp_path / "door", 2) / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "door")
    assert [clip.name for clip in open_source(written)] == ["door"]


def test_hidden_and_other_files_are_passed_over(tmp_path):
    folder = write_scene(tmp_path / "door", 2)
    for name in (".hidden.png", "notes.txt", "Thumbs.db"):
        (folder / name).write_bytes(b"x")
    assert len(list(open_source(str(folder))[0].frames())) == 2


def test_an_image_that_is_damaged_or_gone_is_a_footage_error(tmp_path):
    (tmp_path / "a.bmp").write_bytes(b"BM" + bytes(100))
    with pytest.raises(FootageError, match=r"a\.bmp cannot be decoded"):
        list(open_source(str(tmp_path))[0].frames())
    (clip,) = open_source(str(write_scene(tmp_path / "door", 2)))
    (tmp_path / "door" / "0001.png").unlink()
    with pytest.raises(FootageError, match=r"0001\.png cannot be read"):
        list(clip.frames())


def test_an_empty_video_is_a_footage_error_and_leaves_no_process(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(FootageError, match=r"empty\.mp4"):
        list(open_source(str(tmp_path / "empty.mp4"))[0].frames())
    assert not children()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "texts", "hidden", "both", "twice", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    (tmp_path / "a.txt").write_text("x")
    for name in (
        "hidden/.a.png",
        "both/a.png",
        "both/a.mp4",
        "beside/b.png",
        "beside/in/a.png",
        "above/b.mp4",
        "above/in/a.mp4",
        "deep/in/a.png",
        "deep/in/b.mp4",
        "twice/a.mp4",
        "twice/a.avi",
        "two/a.mp4",
        "two/b.mp4",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("empty", "no video"),
        ("texts", "no image"),
        ("hidden", "no image"),
        ("a.txt", ".txt is not one of"),
        ("both", "both videos and images"),
        ("beside", "holds both images (b.png) and folders of footage (in)"),
        ("above", "holds both videos (b.mp4) and folders of footage (in)"),
        ("deep", "deep/in: holds both videos and images (b.mp4, a.png)"),
        ("twice", "two videos are named a"),
        ("two#0:3", "this folder holds 2"),
        ("two#3:1", "must rise"),
        ("two#0:3,3:9", "must rise and not overlap"),
        ("two#", "expected frame ranges"),
        ("two#1", "expected frame ranges"),
        ("two#-1:3", "expected frame ranges"),
        ("two#0:3,", "expected frame ranges"),
        ("two#\u0661:\u0662", "expected frame ranges"),
        ("two#0:" + "9" * 5000, "expected frame ranges"),
        ("n" * 5000, "no such file"),
        ("a\0b", "no such file"),
        ("kafka://127.0.0.1:1/frames?camera=a#0:3", "expected kafka"),
        ("kafka://127.0.0.1:99999/frames?camera=a", "Port out of range"),
        ("kafka://127.0.0.1:1/a/b?camera=a", "expected kafka"),
        ("kafka://127.0.0.1:1/frames?camera=a&camera=b", "stands twice"),
        ("kafka://127.0.0.1:1/frames?camera=", "camera=''"),
        ("kafka://127.0.0.1:1/frames?camera=a&from=0001-01-01", "no ISO 8601"),
        ("kafka://127.0.0.1:1/frames?camera=a&from=noon", "no ISO 8601"),
        ("kafka://127.0.0.1:1/frames?camera=a&from=5&to=5", "must be earlier"),
    ],
)
def test_a_source_that_is_wrong_is_refused_before_a_frame_is_read(folders, source, word):
    with pytest.raises(ConfigError) as caught:
        open_source(source)
    assert word in str(caught.value)


def test_times_of_kafka_are_iso_8601_or_milliseconds():
    (clip,) = open_source("kafka://[::1]:9/frames?camera=a&from=1970-01-01T01:00:01+01:00&to=2000")
    assert (clip.bootstrap_servers, clip.topic, clip.name) == ("[::1]:9", "frames", "a")
    assert (clip.from_ms, clip.to_ms) == (1000, 2000)
