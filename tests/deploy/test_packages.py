"""What is published to PyPI: a wheel of the four packages, and an sdist from which the same wheel is built."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

import contract
from tests.footage import tiny_settings

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"contract", "exporter", "trainer", "worker"}


def build(source, target, *what):
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1795734699"}
    arguments = [sys.executable, "-m", "hatchling", "build", "--directory", str(target), *what]
    subprocess.run(arguments, cwd=source, env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built[1]) as archive:
        archive.extractall(folder, filter="data")
    [source] = folder.iterdir()
    return source


def not_for_users(names):
    """Files of a wheel that are neither of the packages nor what describes them."""
    kept = (*(f"{package}/" for package in PACKAGES), f"framewatch-{contract.__version__}.dist-info/")
    return sorted(name for name in names if not name.startswith(kept))


def test_the_wheel_holds_the_packages_and_nothing_else(built):
    names = zipfile.ZipFile(built[0]).namelist()
    assert not_for_users(names) == []
    assert not_for_users([*names, "tests/conftest.py", "deploy/demo.py"]) == ["deploy/demo.py", "tests/conftest.py"]
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name for name in names if ".dist-info/" not in name} == set(tracked.stdout.split())


def test_types_are_for_those_who_import_it(built):
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(zipfile.ZipFile(built[0]).namelist())


def test_the_sdist_builds_the_same_wheel(built, unpacked, tmp_path):
    build(unpacked, tmp_path, "--target", "wheel")
    [again] = tmp_path.glob("*.whl")
    assert again.read_bytes() == built[0].read_bytes()


def test_the_sdist_has_what_a_packager_needs_and_is_no_heavier_than_that(built, unpacked):
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "tests/conftest.py"):
        assert (unpacked / name).is_file(), name
    assert built[1].stat().st_size < 8 * 2**20
    assert not list(unpacked.rglob("*.whl"))


def test_the_metadata_is_what_the_index_takes(built):
    archive = zipfile.ZipFile(built[0])
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    said = Metadata.from_email(archive.read(name), validate=True)
    assert (said.name, str(said.version)) == ("framewatch", contract.__version__)
    assert said.license_expression == "Apache-2.0"
    assert said.license_files == ["LICENSE"]
    assert said.description_content_type == "text/markdown"
    assert str(said.requires_python) == ">=3.11"
    assert not {need.name for need in said.requires_dist if need.marker is None} & {"torch", "onnx", "mlflow-skinny"}


def test_the_wheel_alone_gives_the_three_commands(built, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    # Their libraries are those that are installed here.
    zipfile.ZipFile(built[0]).extractall(tmp_path)
    lines = (tmp_path / f"framewatch-{contract.__version__}.dist-info" / "entry_points.txt").read_text().splitlines()
    commands = dict(line.split(" = ") for line in lines if " = " in line)
    assert commands.keys() == {"worker", "trainer", "exporter"}
    for command, place in commands.items():
        module, _, function = place.partition(":")
        code = f"import sys, {module} as m; assert m.__file__.startswith({str(tmp_path)!r}); sys.exit(m.{function}())"
        done = subprocess.run(
            [sys.executable, "-c", code, "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, f"framewatch {contract.__version__}\n"), (command, done.stderr)


@pytest.fixture
def clean(tmp_path):
    """What installs a wheel by an image's lock where there is nothing else, and what runs a command of it."""
    home = tmp_path / "clean"
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}

    def run(*command):
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    def install(image, wheel):
        uv, python = [sys.executable, "-m", "uv"], str(home / "bin" / "python")
        lock = str(ROOT / "deploy" / "images" / f"{image}.lock")
        for command in (
            ["venv", "--quiet", "--python", sys.executable, str(home)],
            ["pip", "sync", "--quiet", "--python", python, "--require-hashes", lock],
            ["pip", "install", "--quiet", "--python", python, "--no-deps", "--no-index", str(wheel)],
        ):
            done = run(*uv, *command)
            assert done.returncode == 0, done.stderr
        return lambda command, *arguments: run(home / "bin" / command, *map(str, arguments))

    return install


def test_the_worker_installs_by_its_lock_and_runs_without_the_trainer_s_libraries(built, clean, tiny_bundle, tmp_path):
    run = clean("worker-cpu", built[0])
    for library in ("torch", "onnx", "lightning_fabric", "sklearn"):
        assert "ModuleNotFoundError" in run("python", "-c", f"import {library}").stderr, library
    (tmp_path / "bad.yaml").write_text("bundel: x\n")
    wrong = run("worker", "check", "--config", "bad.yaml")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "bad.yaml" in wrong.stderr
    done = run("worker", "score", tiny_bundle.bundle, tiny_bundle.footage, "--out", "scores.csv", "--provider", "cpu")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 61


def test_the_trainer_installs_by_its_lock_fits_and_exports(unpacked, clean, tiny_bundle, tmp_path):
    build(unpacked, tmp_path / "again", "--target", "wheel")
    run = clean("trainer", next((tmp_path / "again").glob("*.whl")))
    (tmp_path / "fit.yaml").write_text(tiny_settings(epochs=1).model_dump_json())
    done = run("trainer", "fit", tiny_bundle.footage, "--out", "run", "--config", "fit.yaml")
    assert done.returncode == 0, done.stderr
    done = run("exporter", "build", "run", "--out", "bundle")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bundle" / "detector.onnx").is_file()
