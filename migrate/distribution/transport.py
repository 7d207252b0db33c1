"""The HTTP client for one registry: certificates, timeouts, connections."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from migrate import __version__
from migrate.errors import UsageError

try:
    import httpx
except ImportError:  # the extra [registry] is not installed; open_http reports it
    httpx = None  # type: ignore[assignment]

_CERTIFICATES: Final = ("/etc/docker/certs.d", "~/.docker/certs.d")
_CONNECTIONS: Final = 32


def open_http(scheme: str, host: str, *, insecure: bool, base: str = "") -> httpx.Client:
    """An HTTP client. `base`: the path of the registry on its host, such as `artifactory/api/docker/local`.

    Trusts the system's certificates and those of `/etc/docker/certs.d/HOST/`. Follows no redirects.

    UsageError if httpx is not installed, and for an invalid host.
    """
    if httpx is None:
        raise UsageError(f"docker://{host}: needs httpx: pip install 'docker-legacy-migrate[registry]'")
    from migrate.distribution.measured import expect_head, head_is_here, measure

    try:
        client = httpx.Client(
            base_url=f"{scheme}://{host}/{base}",
            verify=_certificates(host, insecure),
            timeout=httpx.Timeout(120, connect=15),
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
            headers={"User-Agent": f"docker-legacy-migrate/{__version__}", "Accept-Encoding": "identity"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # no cookies, as in Docker's client
            event_hooks={"request": [expect_head], "response": [head_is_here]},
        )
    except httpx.InvalidURL as exc:
        raise _no_host(host) from exc
    measure(client)
    return client


def check_host(host: str) -> None:
    """UsageError for a text that is not `HOST[:PORT]`."""
    try:
        parts = urlsplit(f"//{host}")
        valid = parts.hostname is not None and parts.port != 0
    except ValueError:
        valid = False
    if "@" in host:
        name = host.rpartition("@")[2]
        raise UsageError(f"docker://{name}: no user name and password go into it: run `docker login {name}` first")
    if not valid:
        raise _no_host(host)


def is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _no_host(host: str) -> UsageError:
    return UsageError(f"docker://{host}: {host!r} is no HOST[:PORT]")


def _certificates(host: str, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for base in _CERTIFICATES:
        folder = Path(base).expanduser() / host
        with contextlib.suppress(OSError):
            # As in Docker: `*.crt` are certificates of authorities, `*.cert` those of this client, each with a `.key`.
            for path in sorted(folder.glob("*.crt")):
                context.load_verify_locations(path)
            for path in sorted(folder.glob("*.cert")):
                context.load_cert_chain(path, path.with_suffix(".key"))
    return context
