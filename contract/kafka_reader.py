"""Consumers of no group, and the seam at which kafka-python's errors become the project's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from kafka.errors import (
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaConfigurationError,
    KafkaError,
    KafkaTimeoutError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from kafka.net.sasl.oauth import AbstractTokenProvider

from contract.errors import BrokerUnavailableError, ConfigError
from contract.kafka_connection import KafkaConnection
from contract.steady_consumer import SteadyConsumer


def client_options(connection: KafkaConnection, bootstrap_servers: str, client_id: str) -> dict[str, Any]:
    """What a consumer, producer or admin client is opened with, whatever it does.

    Args:
        connection: How the broker is spoken to.
        bootstrap_servers: ``HOST:PORT`` of one or more brokers, separated by commas.
        client_id: Name under which the broker logs it.
    """
    password = connection.password()
    return {
        "bootstrap_servers": bootstrap_servers.split(","),
        "client_id": client_id,
        "bootstrap_timeout_ms": connection.bootstrap_timeout_ms,
        "security_protocol": connection.security_protocol,
        "ssl_cafile": str(connection.ssl_cafile) if connection.ssl_cafile else None,
        "ssl_certfile": str(connection.ssl_certfile) if connection.ssl_certfile else None,
        "ssl_keyfile": str(connection.ssl_keyfile) if connection.ssl_keyfile else None,
        "sasl_mechanism": connection.sasl_mechanism,
        "sasl_plain_username": connection.sasl_username,
        "sasl_plain_password": password.get_secret_value() if password else None,
        "sasl_oauth_token_provider": _TokenFile(connection) if connection.sasl_mechanism == "OAUTHBEARER" else None,
    }


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """Reads the bearer token anew for each login."""

    def __init__(self, connection: KafkaConnection) -> None:
        super().__init__()
        self._connection = connection

    def token(self) -> str:
        """The token as its file holds it now."""
        return self._connection.token()


def open_reader(
    connection: KafkaConnection,
    bootstrap_servers: str,
    client_id: str,
    *,
    lost_place: Literal["earliest", "latest"] = "latest",
) -> SteadyConsumer:
    """Open a consumer of no group, which sees what committed transactions wrote.

    Args:
        connection: How the broker is spoken to.
        bootstrap_servers: ``HOST:PORT`` of one or more brokers, separated by commas.
        client_id: Name under which the broker logs it.
        lost_place: Where reading goes on when the offset that comes next is no longer there.

    Raises:
        BrokerUnavailableError: No broker answers.
        ConfigError: The client refuses the settings.
    """
    with mapped_errors(connection, bootstrap_servers):
        return SteadyConsumer(
            **client_options(connection, bootstrap_servers, client_id),
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset=lost_place,
            fetch_max_wait_ms=100,
            allow_auto_create_topics=False,
        )


@contextmanager
def mapped_errors(connection: KafkaConnection, bootstrap_servers: str) -> Iterator[None]:
    """Map the client's errors to the project's.

    Raises:
        BrokerUnavailableError: No broker answers, or it does not let us in.
        ConfigError: The client refuses the settings.
    """
    try:
        yield
    except KafkaConfigurationError as error:
        raise ConfigError(f"kafka: {describe_error(error)}") from error
    except (TopicAuthorizationFailedError, GroupAuthorizationFailedError) as error:
        raise BrokerUnavailableError(f"the broker {bootstrap_servers} denies it: {describe_error(error)}") from error
    except UnknownTopicOrPartitionError as error:
        raise BrokerUnavailableError(f"a topic is gone from the broker: {describe_error(error)}") from error
    except KafkaTimeoutError as error:
        raise BrokerUnavailableError(
            f"no Kafka broker answers at {bootstrap_servers} within {connection.bootstrap_timeout_ms / 1000:g} s; "
            "is it running, and is the address right?"
        ) from error
    except (KafkaError, IllegalStateError) as error:
        raise BrokerUnavailableError(f"the broker {bootstrap_servers} failed: {describe_error(error)}") from error


def describe_error(error: BaseException) -> str:
    """Name a client's error and what it says, in one line of at most 200 characters and the name."""
    text = " ".join(str(error).split())[:200]
    name = type(error).__name__
    return text if text.startswith(name) else f"{name} {text}".strip()
