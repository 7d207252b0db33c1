"""The distribution protocol: reading from a registry and writing to it.

Source: distribution 2.8 `docs/spec/api.md` and the OCI distribution specification 1.1. Only this package sends requests
to registries.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, TYPE_CHECKING, Final

from msgspec import Struct

from migrate.distribution.authorization import Access, Scope
from migrate.distribution.download import BlobDownload, stated_length
from migrate.distribution.retries import ATTEMPTS, Sleep
from migrate.distribution.session import (
    RegistryAnswerError,
    RegistrySession,
    Traffic,
    UntrustedCertificateError,
    quoted,
)
from migrate.distribution.transport import check_host, is_loopback, open_http
from migrate.distribution.uploads import BlobUpload
from migrate.documents.json_text import load_json
from migrate.errors import LimitError, MigrateError
from migrate.model.digest import Digest
from migrate.model.image import MediaType

if TYPE_CHECKING:
    pass

_MANIFEST_TYPES: Final = ", ".join(
    (
        MediaType.DOCKER_LIST,
        MediaType.DOCKER_MANIFEST,
        MediaType.OCI_INDEX,
        MediaType.OCI_MANIFEST,
        MediaType.SCHEMA1_SIGNED,
        MediaType.SCHEMA1,
    )
)
_PAGE: Final = 1000
_PAGES: Final = 10_000
_NEXT: Final = re.compile(r'<([^<>]*+)>\s*+;\s*+rel="?next"?')
_LINK_BYTES: Final = 64 * 1024
"""Limit of a `Link` header. httpx refuses longer addresses."""


_ERRNO = re.compile(r"\[Errno -?\d+\] ")
"""The beginning of an OSError's text, which does not help a user."""


class FetchedManifest(Struct, frozen=True):
    """A manifest. `digest` is the registry's header; the caller compares it with the content."""

    content: bytes
    media_type: str
    digest: Digest | None


def open_client(host: str, *, insecure: bool = False, base: str = "", sleep: Sleep = time.sleep) -> RegistryClient:
    """A client for `host[:port]`. Raises UsageError, RegistryAnswerError."""
    return RegistryClient(open_session(host, "/v2/", insecure=insecure, base=base, sleep=sleep))


def open_session(
    host: str, path: str, *, insecure: bool = False, base: str = "", sleep: Sleep = time.sleep
) -> RegistrySession:
    """A session with `host[:port]`, below the path `base`. A request for `path` is sent to find the scheme.

    HTTPS; plain HTTP only for loopback or with `insecure`, which also accepts any certificate. Raises UsageError,
    RegistryAnswerError.
    """
    check_host(host)
    schemes = ("https", "http") if insecure or is_loopback(host) else ("https",)
    failures = []
    # One client for both schemes: to load the system's certificates once more would take a tenth of a small push.
    http = open_http(schemes[0], host, insecure=insecure, base=base)
    try:
        for scheme in schemes:
            http.base_url = f"{scheme}://{host}/{base}"
            session = RegistrySession(host, http, sleep=sleep)
            try:
                session.ping(path, attempts=1 if scheme != schemes[-1] else ATTEMPTS)
            except RegistryAnswerError as exc:
                failures.append(f"{scheme}: {_ERRNO.sub('', exc.message.removeprefix(f'{host}: '))}")
                # The server answered, or its certificate is refused: plain HTTP would not help.
                if exc.status is not None or isinstance(exc, UntrustedCertificateError):
                    raise
            else:
                return session
        raise RegistryAnswerError(f"{host}: cannot be reached: {'; '.join(failures)}")
    except MigrateError:
        http.close()
        raise


class RegistryClient:
    """One registry. Every method may be called from several threads; raises RegistryAnswerError."""

    def __init__(self, session: RegistrySession) -> None:
        self._session = session

    @property
    def host(self) -> str:
        return self._session.host

    @property
    def traffic(self) -> Traffic:
        return self._session.traffic

    # --- reading -------------------------------------------------------------------------------------------------

    def manifest_digest(self, repository: str, reference: str, access: Access = "pull") -> Digest | None:
        """The digest of the manifest with a tag or digest; None if there is none."""
        path = f"/v2/{repository}/manifests/{quoted(reference)}"
        scope = (repository, access)
        answer = self._session.send("HEAD", path, scope, accept=(200, 404), headers={"Accept": _MANIFEST_TYPES})
        return _digest_or_none(answer.headers.get("Docker-Content-Digest")) if answer.status_code == 200 else None

    def manifest(self, repository: str, reference: str) -> FetchedManifest:
        path = f"/v2/{repository}/manifests/{quoted(reference)}"
        answer = self._session.send("GET", path, (repository, "pull"), headers={"Accept": _MANIFEST_TYPES})
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return FetchedManifest(answer.content, media_type, _digest_or_none(answer.headers.get("Docker-Content-Digest")))

    def blob_size(self, repository: str, digest: Digest, access: Access = "pull") -> int | None:
        """The size of a blob of the repository; None if it has no such blob."""
        path = f"/v2/{repository}/blobs/{digest}"
        answer = self._session.send("HEAD", path, (repository, access), accept=(200, 404))
        return stated_length(answer) or 0 if answer.status_code == 200 else None

    def open_blob(self, repository: str, digest: Digest) -> BlobDownload:
        """The blob as a stream that continues after a broken connection. The caller closes it and checks the digest."""

        path = f"/v2/{repository}/blobs/{digest}"
        request = partial(self._session.send, "GET", path, (repository, "pull"), stream=True)
        return BlobDownload(request, f"{self.host}: blob {digest}", self._session.sleep)

    def read_blob(self, repository: str, digest: Digest, limit: int) -> bytes:
        """A small blob, such as a config. LimitError above `limit` or JSON_BYTES."""
        content = self._session.send("GET", f"/v2/{repository}/blobs/{digest}", (repository, "pull")).content
        if len(content) > limit:
            raise LimitError(f"{self.host}: blob {digest}: larger than the limit of {limit:,} bytes")
        return content

    def tags(self, repository: str) -> list[str]:
        return sorted(set(self._pages(f"/v2/{repository}/tags/list?n={_PAGE}", (repository, "pull"), "tags")))

    def catalog(self) -> list[str]:
        """All repositories, if the registry lists them."""
        return sorted(set(self._pages(f"/v2/_catalog?n={_PAGE}", ("", "pull"), "repositories")))

    def _pages(self, path: str, scope: Scope, key: str) -> Iterator[str]:
        next_path: str | None = path
        seen = set()
        for _ in range(_PAGES):
            if next_path is None:
                return
            # The registry names the next page, which may be one that was read already.
            if next_path in seen:
                raise RegistryAnswerError(f"{self.host}{path}: its pages form a cycle, back to {next_path}")
            seen.add(next_path)
            answer = self._session.send("GET", next_path, scope)
            document = load_json(answer.content, f"{self.host}{path}")
            names = (document.get(key) or []) if isinstance(document, dict) else None
            if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
                raise RegistryAnswerError(f"{self.host}{path}: the answer holds no list of {key}")
            yield from names
            link = answer.headers.get("Link", "")
            if len(link) > _LINK_BYTES:
                raise LimitError(f"{self.host}{path}: Link: larger than the limit of {_LINK_BYTES:,} bytes")
            following = _NEXT.search(link)
            next_path = self._session.relative(following[1]) if following else None
        raise LimitError(f"{self.host}{path}: more than {_PAGES:,} pages")

    # --- writing -------------------------------------------------------------------------------------------------

    def put_manifest(self, repository: str, reference: str, content: bytes, media_type: str) -> None:
        path = f"/v2/{repository}/manifests/{quoted(reference)}"
        headers = {"Content-Type": media_type}
        self._session.send("PUT", path, (repository, "push"), accept=(200, 201, 202), headers=headers, body=content)
        self.traffic.add(manifest_bytes=len(content))

    def mount_blob(self, repository: str, digest: Digest, origin: str) -> str | None:
        """None if the registry has copied the blob from the repository `origin`; else the location for an upload."""
        path = f"/v2/{repository}/blobs/uploads/?mount={quoted(str(digest))}&from={quoted(origin)}"
        answer = self._session.send("POST", path, (repository, "push"), accept=(201, 202), also=(origin, "pull"))
        if answer.status_code == 201:
            self.traffic.add(mounts=1)
            return None
        return self._session.location(answer)

    def upload_blob(
        self,
        repository: str,
        digest: Digest,
        size: int,
        open_source: Callable[[], IO[bytes]],
        location: str | None = None,
    ) -> None:
        """Uploads a blob, with the upload at `location` if there is one."""
        upload = BlobUpload(
            self._session, repository, digest, size, lambda: self.blob_size(repository, digest, "push") == size
        )
        with open_source() as source:
            upload.send(source, location)

    def close(self) -> None:
        self._session.close()


def _digest_or_none(text: str | None) -> Digest | None:
    try:
        return Digest.parse(text or "")
    except ValueError:
        return None
