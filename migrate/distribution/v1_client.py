"""The v1 protocol: registries and indexes of 2013 to 2015, which some servers still speak.

Sources: docker-registry 0.9.1 `docker_registry/{app,images,index,tags,search}.py`; moby 1.9.1 `registry/session.go` and
`graph/pull_v1.go` for what a client sends. An index answers a request with `X-Docker-Token: true` by a token for one
repository and by the registries that hold it (`X-Docker-Endpoints`). Those get the token, and the password never.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from migrate.blobio.limits import STATED_BYTES, parse_whole
from migrate.distribution.download import BlobDownload, stated_length
from migrate.distribution.retries import PAUSES
from migrate.distribution.session import RegistryAnswerError, RegistrySession, Scope, quoted
from migrate.distribution.transport import check_host
from migrate.documents.json_text import load_json
from migrate.documents.registry_v1 import parse_checksums
from migrate.errors import LimitError, UsageError

if TYPE_CHECKING:
    import httpx

PING: Final = "/v1/_ping"
_ENDPOINTS: Final = 10
_TOKEN_BYTES: Final = 8 * 1024
_SEARCH_PAGES: Final = 10_000
_PAGE: Final = 100
_CHECKSUM_HEADERS: Final = ("X-Docker-Payload-Checksum", "X-Docker-Checksum-Payload", "X-Docker-Checksum")


@dataclass(frozen=True, slots=True)
class ImageJson:
    """A layer's v1 JSON as sent, the size of its layer as stored in bytes if stated, and its recorded checksums."""

    content: bytes
    layer_size: int | None
    checksums: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Access:
    """How one repository is read. `endpoints` are prefixes of URLs, "" for the registry itself."""

    endpoints: tuple[str, ...] = ("",)
    token: str | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)


class V1Client:
    """One registry or index. Every method may be called from several threads; raises RegistryAnswerError."""

    def __init__(self, session: RegistrySession) -> None:
        self._session = session
        self._accesses: dict[str, _Access] = {}
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return self._session.host

    def search(self) -> list[str]:
        """The names of all repositories, where the server lists them."""
        names: list[str] = []
        for page in range(1, _SEARCH_PAGES + 1):
            answer = self._session.send("GET", f"/v1/search?q=&n={_PAGE}&page={page}", ("", "pull"))
            document = self._document(answer, "search")
            found = document.get("results") if isinstance(document, dict) else None
            if not isinstance(found, list):
                raise RegistryAnswerError(f"{self.host}/v1/search: the answer holds no list of results")
            new = [item["name"] for item in found if isinstance(item, dict) and isinstance(item.get("name"), str)]
            more = [name for name in dict.fromkeys(new) if name not in set(names)]
            names += more
            pages = document.get("num_pages")
            if not more or not isinstance(pages, int) or page >= pages:
                return sorted(names)
        raise LimitError(f"{self.host}/v1/search: more than {_SEARCH_PAGES:,} pages")

    def tags(self, repository: str) -> dict[str, str]:
        """Image IDs by tag."""
        answer = self._get(repository, f"/v1/repositories/{quoted(repository)}/tags".replace("%2F", "/"))
        document = self._document(answer, f"{repository}: tags")
        if not (isinstance(document, dict) and all(isinstance(value, str) for value in document.values())):
            raise RegistryAnswerError(f"{self.host}/{repository}: the answer holds no tags")
        return document

    def ancestry(self, repository: str, image_id: str) -> bytes | None:
        """A JSON array of IDs, the image itself first; None if the registry has none."""
        answer = self._get(repository, f"/v1/images/{image_id}/ancestry", accept=(200, 404))
        return answer.content if answer.status_code == 200 else None

    def image_json(self, repository: str, image_id: str) -> ImageJson | None:
        answer = self._get(repository, f"/v1/images/{image_id}/json", accept=(200, 404))
        if answer.status_code == 404:
            return None
        stated = [answer.headers.get(name, "") for name in _CHECKSUM_HEADERS]
        stated.append(self._access(repository).checksums.get(image_id, ""))
        checksums = [checksum for text in stated for checksum in parse_checksums(text.encode())]
        size = parse_whole(answer.headers.get("X-Docker-Size", "").encode(), STATED_BYTES)
        return ImageJson(answer.content, size, tuple(dict.fromkeys(checksums)))

    def layer_size(self, repository: str, image_id: str) -> int | None:
        """Bytes of the layer as stored, by a HEAD request; None if there is no layer."""
        answer = self._get(repository, f"/v1/images/{image_id}/layer", method="HEAD", accept=(200, 404))
        size = stated_length(answer)
        if answer.status_code == 200 and size is None:
            raise RegistryAnswerError(f"{self.host}: layer {image_id}: the registry states no size of it")
        return size if answer.status_code == 200 else None

    def open_layer(self, repository: str, image_id: str, size: int | None) -> BlobDownload:
        """The layer as a stream that goes on after a broken connection. `size`: where the answer states none."""

        def request(offset: int) -> httpx.Response:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            accept = (200, 206) if offset else (200,)
            path = f"/v1/images/{image_id}/layer"
            return self._get(repository, path, accept=accept, headers=headers, stream=True)

        what = f"{self.host}: layer {image_id}"
        return BlobDownload(request, what, self._session.sleep, PAUSES, size)

    def close(self) -> None:
        self._session.close()

    # --- the index -----------------------------------------------------------------------------------------------

    def _get(
        self,
        repository: str,
        path: str,
        *,
        method: str = "GET",
        accept: tuple[int, ...] = (200,),
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
    ) -> httpx.Response:
        """From the first of the repository's registries that answers."""
        access = self._access(repository)
        sent = dict(headers or {})
        if access.token is not None:
            sent["Authorization"] = f"Token {access.token}"
        scope: Scope | None = (repository, "pull") if access.token is None else None
        failure: RegistryAnswerError | None = None
        for endpoint in access.endpoints:
            try:
                return self._session.send(method, endpoint + path, scope, accept=accept, headers=sent, stream=stream)
            except RegistryAnswerError as exc:
                failure = exc
        assert failure is not None
        raise failure

    def _access(self, repository: str) -> _Access:
        with self._lock:
            if repository not in self._accesses:
                self._accesses[repository] = self._ask_index(repository)
            return self._accesses[repository]

    def _ask_index(self, repository: str) -> _Access:
        """A registry that is no index may not have this page; then it is read as it is."""
        path = f"/v1/repositories/{quoted(repository)}/images".replace("%2F", "/")
        sent = {"X-Docker-Token": "true"}
        answer = self._session.send("GET", path, (repository, "pull"), accept=(200, 404), headers=sent)
        if answer.status_code == 404:
            return _Access()
        token = answer.headers.get("X-Docker-Token")
        if token is not None and (len(token) > _TOKEN_BYTES or not (token.isascii() and token.isprintable())):
            raise RegistryAnswerError(f"{self.host}/{repository}: X-Docker-Token: not a token")
        return _Access(self._endpoints(answer, repository), token, _checksums(self._document(answer, repository)))

    def _endpoints(self, answer: httpx.Response, repository: str) -> tuple[str, ...]:
        """They use what the index uses: https or plain http."""
        hosts = [host.strip() for host in answer.headers.get("X-Docker-Endpoints", "").split(",") if host.strip()]
        if len(hosts) > _ENDPOINTS:
            raise LimitError(f"{self.host}/{repository}: X-Docker-Endpoints: more than {_ENDPOINTS} hosts")
        for host in hosts:
            try:
                check_host(host)
            except UsageError as exc:
                raise RegistryAnswerError(f"{self.host}/{repository}: X-Docker-Endpoints: {host!r} is no host") from exc
        prefixes = ("" if host == self.host else f"{answer.request.url.scheme}://{host}" for host in hosts)
        return tuple(dict.fromkeys(prefixes)) or ("",)

    def _document(self, answer: httpx.Response, what: str) -> Any:
        return load_json(answer.content, f"{self.host}: {what}")


def _checksums(document: Any) -> dict[str, str]:
    """What an index recorded of a repository's images, by ID."""
    found = document if isinstance(document, list) else []
    return {
        item["id"]: item["checksum"]
        for item in found
        if isinstance(item, dict) and isinstance(item.get("id"), str) and isinstance(item.get("checksum"), str)
    }
