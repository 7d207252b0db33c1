"""The v1 protocol: registries and indexes of 2013 to 2015, which some servers still support.

Sources: docker-registry 0.9.1 `docker_registry/{app,images,index,tags,search}.py`; moby 1.9.1 `registry/session.go` and
`graph/pull_v1.go` for a client's requests. An index answers a request with `X-Docker-Token: true` with a token for one
repository and the list of its registries (`X-Docker-Endpoints`). The token is sent to these; the password never is.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from migrate.blobio.limits import STATED_BYTES, parse_whole
from migrate.distribution.authorization import Scope
from migrate.distribution.download import BlobDownload, stated_length
from migrate.distribution.retries import ATTEMPTS
from migrate.distribution.session import RegistryAnswerError, RegistrySession, UnreachableError, quoted
from migrate.distribution.transport import check_host
from migrate.documents.json_text import load_json
from migrate.documents.registry_v1 import parse_checksums, parse_name, parse_tags
from migrate.errors import LimitError, MigrateError, UsageError

if TYPE_CHECKING:
    import httpx

PING: Final = "/v1/_ping"
_ENDPOINTS: Final = 10
_TOKEN_BYTES: Final = 8 * 1024
_SEARCH_PAGES: Final = 10_000
_PAGE: Final = 100
_NO_HEAD: Final = (400, 403, 405, 501)
_NO_INDEX: Final = (400, 404, 405, 410, 501)
"""The status of a registry that is no index for a page of an index."""
_SHORT_ID: Final = re.compile(r"[0-9a-f]{6,15}")
_CHECKSUM_HEADERS: Final = ("X-Docker-Payload-Checksum", "X-Docker-Checksum-Payload", "X-Docker-Checksum")


class UnstatedSizeError(RegistryAnswerError):
    """The layer exists, but its size is unknown before it is read."""


class ImageJson(Struct, frozen=True):
    """A layer's v1 JSON as sent, the size of the stored layer in bytes if it is stated, and its recorded checksums."""

    content: bytes
    layer_size: int | None
    checksums: tuple[str, ...]


class _Access(Struct, frozen=True):
    """The access to one repository. `endpoints`: prefixes of URLs, "" for the server itself. `recorded`: image ID → its
    checksum in the index, "" if it has none."""

    endpoints: tuple[str, ...] = ("",)
    token: str | None = None
    recorded: Mapping[str, str] = field(default_factory=dict)


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
        """The names of all repositories, if the server lists them."""
        names: list[str] = []
        for page in range(1, _SEARCH_PAGES + 1):
            answer = self._session.send("GET", f"/v1/search?q=&n={_PAGE}&page={page}", ("", "pull"))
            document = self._document(answer, "search")
            found = document.get("results") if isinstance(document, dict) else None
            if not isinstance(found, list):
                raise RegistryAnswerError(f"{self.host}/v1/search: the answer holds no list of results")
            rows = [item["name"] for item in found if isinstance(item, dict) and isinstance(item.get("name"), str)]
            new = map(parse_name, rows)
            more = [name for name in dict.fromkeys(new) if name not in set(names)]
            names += more
            pages = document.get("num_pages")
            if not more or not isinstance(pages, int) or page >= pages:
                return sorted(names)
        raise LimitError(f"{self.host}/v1/search: more than {_SEARCH_PAGES:,} pages")

    def tags(self, repository: str) -> dict[str, str]:
        """Tag → image ID, as the server sends them. The caller checks that they are IDs.

        Docker Hub's index sent only the first digits of an ID. They are completed if exactly one ID of its list of
        images begins with them.
        """
        answer = self._get(repository, f"/v1/repositories/{quoted(repository)}/tags".replace("%2F", "/"))
        tags = parse_tags(self._document(answer, f"{repository}: tags"))
        if tags is None:
            raise RegistryAnswerError(f"{self.host}/{repository}: the answer holds no tags")
        known = self._access(repository).recorded
        return {tag: _whole_id(image_id, known) for tag, image_id in tags.items()}

    def ancestry(self, repository: str, image_id: str) -> bytes | None:
        """A JSON array of IDs, the image itself first; None if the registry has none."""
        answer = self._get(repository, f"/v1/images/{image_id}/ancestry", accept=(200, 404))
        return answer.content if answer.status_code == 200 else None

    def image_json(self, repository: str, image_id: str) -> ImageJson | None:
        answer = self._get(repository, f"/v1/images/{image_id}/json", accept=(200, 404))
        if answer.status_code == 404:
            return None
        stated = [answer.headers.get(name, "") for name in _CHECKSUM_HEADERS]
        stated.append(self._access(repository).recorded.get(image_id, ""))
        checksums = [checksum for text in stated for checksum in parse_checksums(text.encode())]
        size = parse_whole(answer.headers.get("X-Docker-Size", "").encode(), STATED_BYTES)
        return ImageJson(answer.content, size, tuple(dict.fromkeys(checksums)))

    def layer_size(self, repository: str, image_id: str) -> int | None:
        """The size of the stored layer, by a HEAD request; None if there is no layer. Raises UnstatedSizeError."""
        accept = (200, *_NO_HEAD, 404)
        answer = self._get(repository, f"/v1/images/{image_id}/layer", method="HEAD", accept=accept)
        if answer.status_code == 404:
            return None
        size = stated_length(answer)
        if answer.status_code != 200 or size is None:
            raise UnstatedSizeError(f"{self.host}: layer {image_id}: the registry states no size of it")
        return size

    def open_layer(self, repository: str, image_id: str, size: int | None) -> BlobDownload:
        """The layer as a stream that continues after a broken connection. `size`: used if the answer has none."""

        what = f"{self.host}: layer {image_id}"
        request = partial(self._get, repository, f"/v1/images/{image_id}/layer", stream=True)
        return BlobDownload(request, what, self._session.sleep, size)

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
        renewed: bool = False,
    ) -> httpx.Response:
        """The answer of the first of the repository's registries that answers. An expired token is replaced, once."""
        access = self._access(repository)
        sent = dict(headers or {})
        if access.token is not None:
            sent["Authorization"] = f"Token {access.token}"
        scope: Scope | None = (repository, "pull") if access.token is None else None
        failure: RegistryAnswerError | None = None
        # The server itself comes last: a registry behind a proxy may list an address of itself that only the proxy can
        # reach.
        own = () if "" in access.endpoints else ("",)
        for endpoint in (*access.endpoints, *own):
            if endpoint in own and not isinstance(failure, UnreachableError):
                break
            try:
                answer = self._session.send(
                    method,
                    endpoint + path,
                    scope,
                    accept=(200,) if endpoint in own else accept,
                    headers=sent,
                    stream=stream,
                    connects=1 if own else ATTEMPTS,
                )
            except UnreachableError as exc:
                failure = failure or exc
            except RegistryAnswerError as exc:
                failure = failure if endpoint in own else exc
            else:
                if endpoint != access.endpoints[0]:
                    # The next request begins with the endpoint that has answered this one.
                    others = [other for other in access.endpoints if other != endpoint]
                    with self._lock:
                        if self._accesses.get(repository) is access:
                            self._accesses[repository] = replace(access, endpoints=(endpoint, *others))
                return answer
        assert failure is not None
        if failure.status == 401 and access.token is not None and not renewed:
            with self._lock:
                if self._accesses.get(repository) is access:
                    del self._accesses[repository]
            return self._get(
                repository, path, method=method, accept=accept, headers=headers, stream=stream, renewed=True
            )
        raise failure

    def _access(self, repository: str) -> _Access:
        with self._lock:
            if repository not in self._accesses:
                self._accesses[repository] = self._request_access(repository)
            return self._accesses[repository]

    def _request_access(self, repository: str) -> _Access:
        """The access to a repository. A registry that is no index may have no such page, or no list on it; then it is
        read without a token."""
        path = f"/v1/repositories/{quoted(repository)}/images".replace("%2F", "/")
        sent = {"X-Docker-Token": "true"}
        answer = self._session.send("GET", path, (repository, "pull"), accept=(200, *_NO_INDEX), headers=sent)
        if answer.status_code != 200:
            return _Access()
        token = answer.headers.get("X-Docker-Token")
        if token is not None and (len(token) > _TOKEN_BYTES or not (token.isascii() and token.isprintable())):
            raise RegistryAnswerError(f"{self.host}/{repository}: X-Docker-Token: not a token")
        # The images that the index lists. Their checksums are useful, but not needed.
        found: Any = None
        with suppress(MigrateError):
            found = self._document(answer, "images")
        return _Access(
            self._endpoints(answer, repository),
            token,
            {
                item["id"]: item["checksum"] if isinstance(item.get("checksum"), str) else ""
                for item in (found if isinstance(found, list) else ())
                if isinstance(item, dict) and isinstance(item.get("id"), str)
            },
        )

    def _endpoints(self, answer: httpx.Response, repository: str) -> tuple[str, ...]:
        """The prefixes of the repository's registries, with the same scheme as the index."""
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


def _whole_id(image_id: str, known: Iterable[str]) -> str:
    """The ID of `known` that begins with `image_id`, if there is exactly one; else `image_id`."""
    if not _SHORT_ID.fullmatch(image_id):
        return image_id
    fitting = [one for one in known if one.startswith(image_id)]
    return fitting[0] if len(fitting) == 1 else image_id
