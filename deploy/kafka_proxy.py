"""A TCP proxy between Kafka's clients and a broker that can be told to misbehave. For tests, on loopback.

It understands as much of the protocol as it needs to tell one kind of request from another: every message begins with
its length; a request then names its kind (API key), version and correlation id, and a response repeats the last.
"""

import asyncio
import contextlib
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, Self

END_TRANSACTION: Final = 26
"""API key of the request that ends a transaction."""

_HOST: Final = "127.0.0.1"
_LENGTH: Final = struct.Struct(">i")
_REQUEST: Final = struct.Struct(">hhi")
_CORRELATION: Final = struct.Struct(">i")
_START_SECONDS: Final = 10.0


class KafkaProxy:
    """Forwards messages whole, from a thread of its own; a context manager.

    Args:
        port: Port to listen on; it must be free.
        target: Port of the broker's listener for proxies.
    """

    def __init__(self, port: int, target: int) -> None:
        self._port = port
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._cut = False
        self._to_swallow: dict[int, int] = {}
        self.swallowed = 0

    def cut(self) -> None:
        """Close every connection, and those that come until `restore`."""
        self._call(self._set_cut(cut=True))

    def restore(self) -> None:
        """Let connections through again."""
        self._call(self._set_cut(cut=False))

    def swallow(self, api_key: int, count: int = 1) -> None:
        """Keep the responses to the next requests of a kind; the broker does what they ask, nobody hears of it."""
        self._to_swallow[api_key] = count

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_SECONDS)
        self._loop.close()

    def _call(self, doing: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(doing, self._loop).result(_START_SECONDS)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, _HOST, self._port)

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _set_cut(self, *, cut: bool) -> None:
        self._cut = cut
        if cut:
            for writer in tuple(self._writers):
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        try:
            broker_reader, broker_writer = await asyncio.open_connection(_HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        asked: dict[int, int] = {}
        both = {writer, broker_writer}
        self._writers |= both
        try:
            ways = (
                asyncio.create_task(self._forward(reader, broker_writer, asked, are_requests=True)),
                asyncio.create_task(self._forward(broker_reader, writer, asked, are_requests=False)),
            )
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
        finally:
            self._writers -= both
            for one in both:
                one.transport.abort()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, int], *, are_requests: bool
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(_LENGTH.size)
                body = await reader.readexactly(_LENGTH.unpack(head)[0])
                if are_requests:
                    api_key, _, correlation = _REQUEST.unpack_from(body)
                    asked[correlation] = api_key
                elif self._is_swallowed(asked.pop(_CORRELATION.unpack_from(body)[0], -1)):
                    self.swallowed += 1
                    continue
                writer.write(head + body)
                await writer.drain()

    def _is_swallowed(self, api_key: int) -> bool:
        left = self._to_swallow.get(api_key, 0)
        if left:
            self._to_swallow[api_key] = left - 1
        return left > 0
