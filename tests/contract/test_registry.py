"""A bundle is registered once whatever is cut off, comes back whole or not at all, and can be taken back."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contract.errors import BundleError, ConfigError, RegistryUnavailableError, UnknownModelError
from contract.manifest import open_bundle, sign_bundle
from contract.registration import DIGEST_TAG
from contract.registry import ROLLED_BACK_TAG, WHY_TAG, Registry
from tests.bundles import write_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(new_registry, tmp_path):
    return new_registry(tmp_path / "registry")


@pytest.fixture
def registry(place):
    return Registry(str(place))


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "made")


def artifacts_of(place):
    (folder,) = place.glob("artifacts/*/artifacts/bundle")
    return folder


def test_a_bundle_has_a_version_with_figures_files_and_its_card(registry, bundle, tmp_path):
    curves = tmp_path / "loss.png"
    curves.write_bytes(b"picture")
    report = tmp_path / "report"
    report.mkdir()
    (report / "index.html").write_text("fine")
    version = registry.register(
        "room", bundle, metrics={"frame_auroc": 0.9}, files={"curves.png": curves, "report": report},
        tags={"group": "north"}, aliases=("challenger",),
    )  # fmt: skip

    found = registry.find("models:/room@challenger")
    assert (found.name, found.version, found.aliases) == ("room", version, ("challenger",))
    assert found.digest == open_bundle(bundle).digest == found.tags[DIGEST_TAG]
    assert found.tags["group"] == "north"
    assert found.metrics["frame_auroc"] == 0.9
    assert found.metrics["calibration.threshold"] == 6.0
    assert found.metrics["parity.anomaly_score"] == pytest.approx(2e-5)
    assert found.metrics["training.best_validation_loss"] == 0.25
    client = registry._client()
    known = client.get_model_version("room", str(version))
    assert known.description == "# made v1\n"
    params = client.get_run(known.run_id).data.params
    assert params["training.source"] == "hall.mp4"
    assert params["precision"] == "fp32"
    files = {file.path for file in client.list_artifacts(known.run_id, "files")}
    assert files == {"files/curves.png", "files/report"}
    assert client.get_run(known.run_id).info.status == "FINISHED"


def test_the_same_bundle_keeps_its_version_and_takes_more(registry, bundle, tmp_path):
    first = registry.register("room", bundle, metrics={"frame_auroc": 0.9})
    again = registry.register("room", bundle, metrics={"frame_auroc": 0.5, "recall": 1.0}, aliases=("champion",))
    other = registry.register("room", write_bundle(tmp_path / "other", "v2"))

    assert (first, again, other) == (1, 1, 2)
    found = registry.find("models:/room/1")
    assert found.aliases == ("champion",)
    # The last value, though the one before is higher.
    assert found.metrics["frame_auroc"] == 0.5
    assert found.metrics["recall"] == 1.0
    assert registry.register("hall", bundle) == 1


STEPS = (
    "create_registered_model", "search_model_versions", "create_experiment", "create_run", "log_batch", "log_artifacts",
    "set_terminated", "create_model_version", "set_model_version_tag", "set_registered_model_alias",
)  # fmt: skip


class KilledError(BaseException):
    """Stands for SIGKILL: nothing after it is done."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_whatever_step_is_cut_off_there_is_one_version_and_one_run_in_the_end(place, bundle, monkeypatch, step, when):
    def register(registry):
        return registry.register("room", bundle, metrics={"recall": 1.0}, tags={"a": "b"}, aliases=("champion",))

    cut_off = Registry(str(place))
    client = cut_off._client(create=True)
    whole = getattr(client, step)

    def killed(*args, **kwargs):
        if when == "after":
            whole(*args, **kwargs)
        raise KilledError

    monkeypatch.setattr(client, step, killed)
    with pytest.raises(KilledError):
        register(cut_off)

    again = Registry(str(place))
    assert register(again) == 1
    (one,) = again.models()
    assert (one.version, one.aliases, one.metrics["recall"], one.tags["a"]) == (1, ("champion",), 1.0, "b")
    client = again._client()
    (experiment,) = (each for each in client.search_experiments() if each.name == "framewatch/room")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.source"] == "hall.mp4"
    open_bundle(again.fetch(one, place / "cache"))


def test_a_bundle_that_is_not_whole_is_not_registered(registry, bundle):
    (bundle / "detector.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"detector\.onnx"):
        registry.register("room", bundle)
    with pytest.raises(UnknownModelError):
        registry.find("models:/room/1")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a" * 129])
def test_a_name_that_could_be_no_address_is_refused(registry, bundle, name):
    with pytest.raises(ConfigError, match="1 to 128"):
        registry.register(name, bundle)


def test_what_is_not_there_is_said_in_one_line(registry, bundle):
    registry.register("room", bundle)
    for address, word in (
        ("models:/hall@champion", "hall"), ("models:/room@champion", "champion"), ("models:/room/7", "7"),
    ):  # fmt: skip
        with pytest.raises(UnknownModelError, match=word) as caught:
            registry.find(address)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="models:/NAME@ALIAS"):
        registry.find("models:/room")


def test_a_version_that_others_made_is_no_bundle(registry, place):
    client = registry._client(create=True)
    client.create_registered_model("room")
    client.create_model_version("room", str(place))
    with pytest.raises(UnknownModelError, match="holds no bundle"):
        registry.find("models:/room/1")
    assert list(registry.models("room")) == []


def test_a_bundle_is_fetched_once_and_whole(registry, bundle, place, tmp_path):
    registry.register("room", bundle, aliases=("champion",))
    folder = registry.fetch("models:/room@champion", tmp_path / "cache")
    digest = open_bundle(bundle).digest
    assert folder == tmp_path / "cache" / "room" / f"1-{digest[7:19]}"
    assert open_bundle(folder).digest == digest
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    (artifacts_of(place) / "detector.onnx").unlink()
    assert registry.fetch("models:/room@champion", tmp_path / "cache") == folder


def test_what_was_damaged_in_the_cache_is_fetched_anew(registry, bundle, tmp_path):
    registry.register("room", bundle, aliases=("champion",))
    folder = registry.fetch("models:/room@champion", tmp_path)
    (folder / "detector.onnx").write_bytes(b"damaged")
    (folder / "more").write_text("not listed")
    assert registry.fetch("models:/room@champion", tmp_path) == folder
    assert open_bundle(folder).digest == open_bundle(bundle).digest


def spoil_graph(folder, tmp_path):
    (folder / "encoder.onnx").write_bytes(b"other")


def add_file(folder, tmp_path):
    (folder / "more.onnx").write_bytes(b"not listed")


def put_another(folder, tmp_path):
    for file in write_bundle(tmp_path / "another", "v9").iterdir():
        file.replace(folder / file.name)


def take_one(folder, tmp_path):
    (folder / "manifest.json").unlink()


def take_all(folder, tmp_path):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (spoil_graph, "encoder.onnx"), (add_file, "more.onnx"), (put_another, "registered was"), (take_one, "manifest"),
        (take_all, "not in the registry any more"),
    ],
)  # fmt: skip
def test_what_is_not_what_was_registered_is_refused_and_never_put_in_place(
    registry, bundle, place, tmp_path, spoil, word
):
    registry.register("room", bundle)
    spoil(artifacts_of(place), tmp_path)
    said = []
    for _ in range(2):
        with pytest.raises(BundleError, match=word) as caught:
            registry.fetch("models:/room/1", tmp_path / "cache")
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "models:/room/1" in said[0]
    assert list((tmp_path / "cache").glob("*/*")) == []
    # Registered again, it is mended.
    assert registry.register("room", bundle) == 1
    if spoil is not add_file:
        assert open_bundle(registry.fetch("models:/room/1", tmp_path / "cache")).digest == open_bundle(bundle).digest


def test_a_signature_travels_and_is_asked_for(registry, bundle, tmp_path):
    for name, command in (
        ("key.pem", ["openssl", "genpkey", "-algorithm", "ed25519"]),
        ("key.pub", ["openssl", "pkey", "-in", str(tmp_path / "key.pem"), "-pubout"]),
    ):
        (tmp_path / name).write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
        (tmp_path / name).chmod(0o600)
    registry.register("room", bundle)
    key = tmp_path / "key.pub"
    registry.fetch("models:/room/1", tmp_path / "cache")
    with pytest.raises(BundleError, match="sig"):
        registry.fetch("models:/room/1", tmp_path / "cache", key)

    sign_bundle(bundle, tmp_path / "key.pem")
    assert registry.register("room", bundle) == 1
    open_bundle(registry.fetch("models:/room/1", tmp_path / "cache", key), key)


@pytest.fixture
def three(registry, tmp_path):
    for number in (1, 2, 3):
        registry.register("room", write_bundle(tmp_path / str(number), f"v{number}"))
    return registry


def champion(registry):
    return registry.find("models:/room@champion").version


def test_a_champion_is_promoted_and_rolled_back_once(three):
    assert three.promote("room", 1, "first") is None
    assert three.promote("room", 2, "better") == 1
    assert champion(three) == 2
    assert three.find("models:/room@previous").version == 1
    assert three.find("models:/room/2").tags[WHY_TAG] == "better"

    assert three.rollback("room") == 1
    assert champion(three) == 1
    assert three.find("models:/room/2").tags[ROLLED_BACK_TAG] == "1"
    with pytest.raises(ConfigError, match="none is remembered"):
        three.rollback("room")
    assert champion(three) == 1

    assert three.promote("room", 2, "mended") == 1
    assert ROLLED_BACK_TAG not in three.find("models:/room/2").tags


def test_promoting_the_champion_changes_nothing(three):
    three.promote("room", 1)
    three.promote("room", 2)
    assert three.promote("room", 2, "again") is None
    assert three.find("models:/room@previous").version == 1
    assert three.rollback("room") == 1


def test_only_what_is_there_is_promoted_or_rolled_back(three):
    with pytest.raises(UnknownModelError):
        three.promote("room", 9)
    with pytest.raises(UnknownModelError):
        three.promote("hall", 1)
    with pytest.raises(UnknownModelError):
        three.rollback("hall")
    with pytest.raises(UnknownModelError):
        three.set_alias("room", "night", 9)
    with pytest.raises(ConfigError, match="none is remembered"):
        three.rollback("room")
    three.set_alias("room", "night", 3)
    assert three.find("models:/room@night").version == 3


@pytest.mark.parametrize("step", [0, 1])
def test_a_promotion_that_was_cut_off_leaves_a_champion_and_can_be_done_again(three, monkeypatch, step):
    three.promote("room", 1)
    client = three._client()
    whole, calls = client.set_registered_model_alias, []

    def killed(*args):
        if len(calls) == step:
            raise KilledError
        calls.append(whole(*args))

    with monkeypatch.context() as patch:
        patch.setattr(client, "set_registered_model_alias", killed)
        with pytest.raises(KilledError):
            three.promote("room", 2)
    assert champion(three) == 1
    assert three.promote("room", 2) == 1
    assert three.rollback("room") == 1


def test_models_are_listed_newest_first(three, tmp_path):
    three.register("hall", write_bundle(tmp_path / "hall", "v7"), aliases=("champion",))
    three.promote("room", 2)
    listed = [(one.name, one.version, one.aliases) for one in three.models()]
    assert listed == [("hall", 1, ("champion",)), ("room", 3, ()), ("room", 2, ("champion",)), ("room", 1, ())]
    assert [one.version for one in three.models("room")] == [3, 2, 1]
    assert next(three.models("hall")).metrics["quality.auroc_disturbed"] == 0.98
    with pytest.raises(UnknownModelError):
        list(three.models("yard"))


def test_a_registry_that_is_not_there_is_not_made_by_asking(tmp_path):
    with pytest.raises(RegistryUnavailableError, match="register a bundle first"):
        Registry(str(tmp_path / "gone")).find("models:/room/1")
    assert not (tmp_path / "gone").exists()
    (tmp_path / "mlflow.db").write_text("something else entirely")
    with pytest.raises(ConfigError, match="no SQLite file"):
        Registry(str(tmp_path)).find("models:/room/1")


def test_a_server_that_refuses_or_never_answers_is_given_up_soon(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret-token")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for listens in (False, True):
            if listens:
                taken.listen(8)
            began = time.monotonic()
            with pytest.raises(RegistryUnavailableError) as caught:
                Registry(f"http://127.0.0.1:{port}").find("models:/room@champion")
            assert time.monotonic() - began < 10
            assert "\n" not in str(caught.value)
            assert f"127.0.0.1:{port}" in str(caught.value)
            assert "secret" not in str(caught.value)


def test_a_login_is_in_no_message():
    with pytest.raises(RegistryUnavailableError) as caught:
        Registry("http://me:hidden@127.0.0.1:9").find("models:/room@champion")
    assert "hidden" not in str(caught.value)


def test_mlflow_is_imported_where_a_model_is_asked_for_and_then_tells_nobody(place):
    script = (
        "import sys, os\n"
        "import worker.__main__, worker.run, worker.check, trainer.__main__, exporter.__main__, contract.registry\n"
        "assert not {'mlflow', 'sqlalchemy', 'alembic'} & sys.modules.keys()\n"
        f"from contract.registry import Registry\n"
        f"assert list(Registry({str(place)!r}).models()) == []\n"
        "from mlflow.telemetry import get_telemetry_client\n"
        "assert get_telemetry_client() is None\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_mlflow_one_line_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("contract.mlflow_client.importlib.util.find_spec", lambda name: None)
    (tmp_path / "mlflow.db").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"pip install framewatch\[registry\]"):
        Registry(str(tmp_path)).find("models:/room/1")


def test_a_new_registry_is_made_quietly_with_its_files_beside_it(tmp_path):
    bundle = write_bundle(tmp_path / "made")
    command = [sys.executable, "-m", "exporter", "register", str(bundle), "room", "--registry", str(tmp_path / "new")]
    done = subprocess.run([*command, "--alias", "champion"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "models:/room/1" in done.stderr
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"mlflow.db", "artifacts"}
    assert not (ROOT / "mlruns").exists()
    listed = subprocess.run(
        [sys.executable, "-m", "trainer", "models", "--json", "--registry", str(tmp_path / "new")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(listed.stdout)["aliases"] == ["champion"]
