"""A registry of the v1 protocol on a storage tree, as docker-registry 0.9.1 and the old index answered.

Written from docker-registry's `images.py`, `index.py`, `tags.py` and `search.py`, and compared with the server itself
(run by hand on Python 2.7), which lists names as its storage has them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from tests.scripted import Reply, Request

TOKEN = 'signature=0123456789abcdef,repository="library/app",access=read'


@dataclass
class V1Server:
    """`answer` is for `scripted_server`. What is wrong with an answer is for `spoil` to do.

    `endpoints`: hosts that the index sends clients to. `user` and `password`: what the index wants, if anything.
    `token`: what layers, JSONs and tags are given for; without one, for a password or nothing.
    """

    root: Path
    user: str = ""
    password: str = ""
    token: str = ""
    endpoints: str = ""
    checksum_header: str = "X-Docker-Checksum"
    states_size: bool = True
    challenge: str = 'Basic realm="index"'
    spoil: Callable[[Request, Reply], Reply] = field(default=lambda _, reply: reply)

    def answer(self, request: Request) -> Reply:
        return self.spoil(request, self._answer(request))

    def _answer(self, request: Request) -> Reply:
        parts = urlsplit(request.path)
        path = parts.path
        given = request.headers.get("Authorization", "")
        login = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if path == "/v1/_ping":
            return Reply(body=b"true", headers={"X-Docker-Registry-Version": "0.9.1"})
        if path.startswith("/v2/") and self.token:
            return Reply(404)
        if found := re.fullmatch(r"/v1/repositories/(.+)/images", path):
            if self.user and given != login:
                return Reply(401, headers={"WWW-Authenticate": self.challenge})
            return self._index(unquote(found[1]), request)
        wanted = f"Token {self.token}" if self.token else login if self.user else given
        if given != wanted:
            return Reply(401, headers={"WWW-Authenticate": self.challenge})
        if found := re.fullmatch(r"/v1/repositories/(.+)/tags", path):
            tags = self._tags(unquote(found[1]))
            return _json(tags) if tags else Reply(404, b'{"error": "Repository not found"}')
        if path == "/v1/search":
            return _json({"num_pages": 1, "results": [{"name": name} for name in self._repositories()]})
        if found := re.fullmatch(r"/v1/images/([0-9a-f]+)/(json|layer|ancestry)", path):
            return self._image(found[1], found[2], request)
        return Reply(404)

    def _index(self, repository: str, request: Request) -> Reply:
        if not self._tags(repository):
            return Reply(404)
        headers = {}
        if self.token and request.headers.get("X-Docker-Token") == "true":
            headers["X-Docker-Token"] = self.token
        if self.endpoints:
            headers["X-Docker-Endpoints"] = self.endpoints
        return Reply(body=b"[]", headers=headers)

    def _image(self, image_id: str, what: str, request: Request) -> Reply:
        folder = self.root / "images" / image_id
        if not (folder / what).is_file():
            return Reply(404, b'{"error": "Image not found"}')
        if (folder / "_inprogress").exists():
            return Reply(400, b'{"error": "Image is being uploaded, retry later"}')
        content = (folder / what).read_bytes()
        if what == "layer":
            start = int((request.headers.get("Range") or "bytes=0-")[6:-1])
            if start >= len(content):
                return Reply(416)
            # docker-registry 0.9.1 states one byte more than it sends where it goes on, and a range without a unit
            place = {"Content-Range": f"{start}-{len(content)}/{len(content)}"}
            return Reply(206, content[start:] + b"?", place, cut=len(content) - start) if start else Reply(body=content)
        headers = {}
        if what == "json" and self.states_size and (folder / "layer").is_file():
            headers["X-Docker-Size"] = str((folder / "layer").stat().st_size)
        if what == "json" and (folder / "_checksum").is_file():
            headers[self.checksum_header] = (folder / "_checksum").read_text().replace("\n", " ")
        return Reply(body=content, headers=headers)

    def _folder(self, repository: str) -> Path:
        namespace, slash, name = repository.partition("/")
        namespace, name = (namespace, name) if slash else ("library", repository)
        parent, name = self.root / "repositories" / quote(namespace, safe=""), quote(name, safe="")
        twice = parent / quote(name, safe="")
        return twice if twice.is_dir() else parent / name

    def _tags(self, repository: str) -> dict[str, str]:
        found = self._folder(repository).glob("tag_*")
        tags = {path.name.removeprefix("tag_"): path.read_text(errors="replace") for path in found if path.is_file()}
        return {tag: value for tag, value in tags.items() if not value.startswith("{")}

    def _repositories(self) -> list[str]:
        folders = (self.root / "repositories").glob("*/*/")
        return sorted(f"{path.parent.name}/{path.name}" for path in folders)


def _json(value: Any) -> Reply:
    return Reply(body=json.dumps(value).encode(), headers={"Content-Type": "application/json"})
