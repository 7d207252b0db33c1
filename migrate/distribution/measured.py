"""Limits for servers that never finish an answer.

A timeout of httpx covers one read from the socket. It does not end an answer of a byte each second, or endless interim
answers (1xx). The network streams here measure whole answers.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final

import httpcore
import httpx

_PATIENCE: Final = 30.0
_BYTES_PER_SECOND: Final = 16 * 1024
"""The average speed that an answer must have if waiting for its bytes has taken more than _PATIENCE seconds."""
_HEAD_BYTES: Final = 1024 * 1024
"""Bytes read before an answer's headers are complete, interim answers (1xx) included."""


class _Head(threading.local):
    """The number of bytes that this thread has read while it waits for headers; None if it does not wait for any."""

    received: int | None = None


_head: Final = _Head()


def expect_head(request: httpx.Request) -> None:
    del request
    _head.received = 0


def head_is_here(response: httpx.Response) -> None:
    del response
    _head.received = None


def measure(client: httpx.Client) -> None:
    """Makes the client's connections measure their answers, also those through proxies.

    Private members are used, since httpx has no parameter for a network backend, and with a custom transport it ignores
    the environment's proxies.
    """
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            pool = transport._pool
            pool._network_backend = _MeasuredBackend(pool._network_backend)


class _MeasuredBackend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _MeasuredStream(self._inner.connect_tcp(host, port, timeout, local_address, socket_options))


class _MeasuredStream(httpcore.NetworkStream):
    """Ends an answer that is too slow, and one whose headers never end.

    Only the time in `read` counts, without the wait for the first byte, which is the server's time to make the answer
    and is bounded by the timeout. The time that the program needs for the bytes does not count.
    """

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner
        self._received = 0
        self._waited = 0.0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        started = monotonic()
        block = self._inner.read(max_bytes, timeout)
        # The time before the first byte does not count: the server may need it to prepare the answer.
        if self._received:
            self._waited += monotonic() - started
        self._received += len(block)
        if self._waited > _PATIENCE + self._received / _BYTES_PER_SECOND:
            raise httpcore.ReadTimeout(
                f"the answer comes too slowly: {self._received:,} bytes in {self._waited:.0f} seconds"
            )
        if _head.received is not None:
            _head.received += len(block)
            if _head.received > _HEAD_BYTES:
                raise httpcore.RemoteProtocolError(f"more than {_HEAD_BYTES:,} bytes without an answer's headers")
        return block

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._received, self._waited = 0, 0.0
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _MeasuredStream(self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
