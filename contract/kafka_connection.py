"""How a broker is spoken to: protection and login, the same for whoever reads or writes topics."""

import os
import stat
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from contract.address import is_loopback
from contract.settings import FrozenModel

TOPIC_PATTERN: Final = r"^[A-Za-z0-9._-]{1,249}$"


class KafkaConnection(FrozenModel):
    """How the connection to a broker is protected, and who logs in."""

    bootstrap_timeout_ms: int = Field(default=15_000, ge=1_000, le=600_000)
    """Time within which a broker must answer at start."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How the connection is protected."""

    allow_plaintext: bool = False
    """Whether a connection without TLS may leave this machine."""

    ssl_cafile: Path | None = None
    """Certificates of the authorities that sign the brokers', PEM."""

    ssl_certfile: Path | None = None
    """The client's own certificate, PEM, where the brokers ask for one."""

    ssl_keyfile: Path | None = None
    """Its key, PEM, readable by its owner alone."""

    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """How the client logs in."""

    sasl_token_file: Path | None = None
    """File that holds a bearer token for OAUTHBEARER, readable by its owner alone; read again at each login, so another
    process may renew it."""

    sasl_username: str | None = None
    """Who it logs in as."""

    sasl_password: SecretStr | None = None
    """Password; better from ``sasl_password_file`` or the environment than from a file of settings."""

    sasl_password_file: Path | None = None
    """File that holds the password, readable by its owner alone."""

    @field_validator("ssl_cafile", "ssl_certfile")
    @classmethod
    def _is_there(cls, file: Path | None) -> Path | None:
        if file is not None and not file.is_file():
            raise ValueError(f"there is no file {file}")
        return file

    @model_validator(mode="after")
    def _can_log_in(self) -> Self:
        if self.security_protocol.startswith("SASL") != (self.sasl_mechanism is not None):
            raise ValueError("sasl_mechanism belongs with security_protocol SASL_SSL or SASL_PLAINTEXT")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile belongs with ssl_keyfile")
        if self.ssl_keyfile is not None:
            read_secret("ssl_keyfile", self.ssl_keyfile)
        if self.sasl_mechanism == "OAUTHBEARER":
            if self.sasl_token_file is None:
                raise ValueError("sasl_mechanism OAUTHBEARER needs sasl_token_file")
            self.token()
        elif self.sasl_mechanism is not None and (not self.sasl_username or self.password() is None):
            raise ValueError("sasl_mechanism needs sasl_username and sasl_password_file or sasl_password")
        return self

    def leaves_unprotected(self, bootstrap_servers: str) -> bool:
        """Whether a connection without TLS would leave this machine though nobody allowed it.

        Args:
            bootstrap_servers: ``HOST:PORT`` of one or more brokers, separated by commas.
        """
        hosts = [address.rpartition(":")[0].strip("[]") for address in bootstrap_servers.split(",")]
        has_tls = not self.security_protocol.endswith("PLAINTEXT")
        return not (has_tls or self.allow_plaintext or all(is_loopback(host) for host in hosts))

    def password(self) -> SecretStr | None:
        """The password, read from its file where one is named.

        Raises:
            ValueError: The file cannot be read, or others than its owner may read it.
        """
        if self.sasl_password_file is None:
            return self.sasl_password
        return SecretStr(read_secret("sasl_password_file", self.sasl_password_file))

    def token(self) -> str:
        """The bearer token, read from its file.

        Raises:
            ValueError: The file cannot be read, or others than its owner may read it.
        """
        assert self.sasl_token_file is not None  # noqa: S101 - asked for where it is set
        return read_secret("sasl_token_file", self.sasl_token_file)


def read_secret(name: str, file: Path) -> str:
    """Read a file that its owner alone may read.

    A group may read what is root's and not this process's own, as PostgreSQL has it for keys: so Kubernetes gives a
    Secret to a process that is not root, and so may a system's administrator.

    Args:
        name: The setting that names it, for the message.
        file: The file.

    Raises:
        ValueError: It cannot be read, or others than its owner may read it.
    """
    try:
        status = file.stat()
        is_given = status.st_uid == 0 != os.geteuid()
        if status.st_mode & (stat.S_IROTH if is_given else stat.S_IRGRP | stat.S_IROTH):
            raise ValueError(f"{name} {file} is readable by others; chmod 600 it")
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"{name} {file}: {error.strerror}") from error
