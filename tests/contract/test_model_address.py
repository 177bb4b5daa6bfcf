"""Addresses of models and of registries are read strictly, and shown without credentials."""

from pathlib import Path

import pytest

from contract.errors import ConfigError
from contract.model_address import ModelAddress, is_model_address, locate, parse_model_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("models:/room@champion", ModelAddress("room", "champion")),
        ("models:/room/12", ModelAddress("room", version=12)),
        ("models:/hall.2_a-b@night-1", ModelAddress("hall.2_a-b", "night-1")),
    ],
)
def test_an_address_is_read_and_written_again(text, address):
    assert parse_model_address(text) == parse_model_address(Path(text)) == address
    assert str(address) == text
    assert is_model_address(Path(text))


@pytest.mark.parametrize(
    "text",
    [
        "models:/room", "models:/room/", "models:/room@", "models:/room/0", "models:/room/champion",
        "models:/..@champion", "models:/.hidden/1", "models:/a/b@c",
        "models:/room@cham pion", "models:/room/1\n", "models:/{camera}@champion",
        "models:room@champion", "models:/" + "a" * 129 + "@x",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="models:/NAME@ALIAS"):
        parse_model_address(text)


def test_a_folder_is_no_address():
    assert not is_model_address(Path("/models/room"))


def test_a_registry_is_a_folder_a_file_or_a_server(tmp_path):
    folder = locate(str(tmp_path / "registry"))
    assert folder.tracking == folder.registry == f"sqlite:///{tmp_path}/registry/mlflow.db"
    assert folder.artifacts == (tmp_path / "registry" / "artifacts").as_uri()
    assert locate(f"sqlite:///{tmp_path}/other.db").database == tmp_path / "other.db"
    server = locate("https://models.example:5000")
    assert (server.tracking, server.database, server.artifacts) == ("https://models.example:5000", None, None)


def test_mlflow_s_own_variables_hold_where_nothing_is_said(tmp_path):
    environment = {"MLFLOW_TRACKING_URI": "https://runs.example", "MLFLOW_REGISTRY_URI": f"sqlite:///{tmp_path}/m.db"}
    place = locate(None, environment=environment)
    assert place.tracking == "https://runs.example"
    assert place.database == tmp_path / "m.db"
    assert locate(str(tmp_path), environment=environment).tracking == f"sqlite:///{tmp_path}/mlflow.db"
    assert locate(None, environment={}).database == Path("~/.framewatch/registry/mlflow.db").expanduser()


def test_plaintext_beyond_this_machine_must_be_asked_for():
    with pytest.raises(ConfigError, match="registry_allow_plaintext"):
        locate("http://models.example:5000")
    assert locate("http://models.example:5000", allow_plaintext=True).registry == "http://models.example:5000"
    assert locate("http://127.0.0.1:5000").registry == "http://127.0.0.1:5000"


@pytest.mark.parametrize("text", ["postgresql://u:secret@host/db", "http://", "ftp://u:secret@host", "http://[::1"])
def test_other_addresses_are_refused_and_show_no_password(text):
    with pytest.raises(ConfigError) as caught:
        locate(text)
    assert "secret" not in str(caught.value)


def test_a_place_is_shown_without_credentials():
    assert "secret" not in str(locate("https://me:secret@models.example"))
    assert "models.example" in str(locate("https://me:secret@models.example"))
