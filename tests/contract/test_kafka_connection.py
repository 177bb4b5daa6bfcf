"""Whose files of secrets are read."""

import os

import pytest

from contract.kafka_connection import read_secret

OTHER_USER = 10001


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "password"
    file.write_text("secret\n")
    return file


@pytest.mark.parametrize("mode", [0o440, 0o640, 0o404, 0o444])
def test_a_file_of_its_own_that_others_may_read_is_refused(secret, mode):
    secret.chmod(mode)
    with pytest.raises(ValueError, match="readable by others"):
        read_secret("sasl_password_file", secret)
    secret.chmod(0o400)
    assert read_secret("sasl_password_file", secret) == "secret"


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give a file to others")
def test_a_file_that_root_gave_to_a_group_is_read_and_one_for_all_is_not(secret, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: OTHER_USER)  # as in a pod, whose Secrets are root's and its group's
    secret.chmod(0o440)
    assert read_secret("sasl_password_file", secret) == "secret"
    secret.chmod(0o444)
    with pytest.raises(ValueError, match="readable by others"):
        read_secret("sasl_password_file", secret)
    os.chown(secret, OTHER_USER + 1, -1)
    secret.chmod(0o440)
    with pytest.raises(ValueError, match="readable by others"):
        read_secret("sasl_password_file", secret)
