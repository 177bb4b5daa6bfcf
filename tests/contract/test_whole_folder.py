"""A folder is replaced whole, or what stood there stays."""

import os
import stat
from pathlib import Path

import pytest

from contract.errors import ConfigError
from contract.whole_folder import require_free, whole_folder


def write(out, text="new", **how):
    with whole_folder(out, **how) as folder:
        (folder / "a.txt").write_text(text)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("replaceable", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_new_or_empty_folder_is_written_with_those_above_it(tmp_path, there, replaceable):
    out = tmp_path / "above" / "out"
    if there:
        out.mkdir(parents=True)
    write(out, replaceable=replaceable)
    assert tree(tmp_path) == {"above/out/a.txt": "new"}
    assert names(out.parent) == ["out"]
    assert stat.S_IMODE(out.stat().st_mode) & 0o700 == 0o700


def test_it_does_not_stand_there_before_it_is_whole(tmp_path):
    out = tmp_path / "out"
    with whole_folder(out) as folder:
        (folder / "a.txt").write_text("new")
        assert not out.exists()
    assert tree(out) == {"a.txt": "new"}


def test_what_may_be_replaced_is_replaced_whole(tmp_path):
    out = tmp_path / "out"
    write(out, "old")
    (out / "more.txt").write_text("old")
    with whole_folder(out, replaceable=True) as folder:
        (folder / "a.txt").write_text("new")
        assert tree(out) == {"a.txt": "old", "more.txt": "old"}
    assert tree(out) == {"a.txt": "new"}
    assert names(tmp_path) == ["out"]


def test_an_error_leaves_what_stood_there_and_nothing_beside_it(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), whole_folder(out) as folder:
        (folder / "a.txt").write_text(str(1 / 0))
    assert names(tmp_path) == []
    write(out, "old")
    with pytest.raises(ZeroDivisionError), whole_folder(out, replaceable=True) as folder:
        (folder / "a.txt").write_text(str(1 / 0))
    assert tree(tmp_path) == {"out/a.txt": "old"}
    assert names(tmp_path) == ["out"]


def test_what_stood_there_comes_back_where_the_new_cannot_be_put(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(out, "old")
    rename = Path.rename

    def fails(path, target):
        if path.name == "new":
            raise OSError(28, "No space left on device", str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="No space left"):
        write(out, replaceable=True)
    assert tree(tmp_path) == {"out/a.txt": "old"}
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("replaceable", [False, True])
@pytest.mark.parametrize("written", [".", "../here", "inner/.."])
def test_the_current_folder_is_refused(tmp_path, monkeypatch, written, replaceable):
    (tmp_path / "here" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match="current folder"):
        write(Path(written), replaceable=replaceable)


@pytest.mark.parametrize(
    ("out", "replaceable", "word"),
    [
        ("used", False, "is in use"),
        ("file", False, "is in use"),
        ("file", True, "is in use"),
        ("file/out", False, "lies in a file"),
        ("file/above/out", True, "lies in a file"),
        ("used/../file/out", False, "lies in a file"),
        ("link", False, "is in use"),
    ],
)
def test_what_is_in_use_is_refused_before_any_work(tmp_path, out, replaceable, word):
    write(tmp_path / "used", "mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "used")
    before = tree(tmp_path)
    for refused in (require_free, write):
        with pytest.raises(ConfigError, match=word) as caught:
            refused(tmp_path / out, replaceable=replaceable)
        assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


def test_a_free_folder_is_told_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert require_free(Path("out")) == tmp_path / "out"
    assert names(tmp_path) == []


def test_a_folder_filled_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out"
    block = whole_folder(out)
    block.__enter__()
    write(out, "mine")
    with pytest.raises(OSError, match="not empty"):
        block.__exit__(None, None, None)
    assert tree(tmp_path) == {"out/a.txt": "mine"}


def test_a_link_to_a_folder_that_may_be_replaced_stays_a_link(tmp_path):
    write(tmp_path / "old", "old")
    (tmp_path / "link").symlink_to(tmp_path / "old")
    write(tmp_path / "link", replaceable=True)
    assert (tmp_path / "link").is_symlink()
    assert tree(tmp_path / "old") == {"a.txt": "new"}


def test_names_as_long_as_they_may_be_are_written(tmp_path):
    out = tmp_path / ("n" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write(out)
    assert tree(out) == {"a.txt": "new"}
