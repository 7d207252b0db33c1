"""Registries of the v1 protocol: the same images as from their storage, and clear errors for broken answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.distribution.credentials import encode_config
from migrate.errors import SourceUnreadableError
from migrate.model.legacy import SourceType
from migrate.model.options import ConvertOptions, ReadOptions
from migrate.readers.base import LegacySource
from migrate.readers.detect import open_source
from migrate.readers.remote_registry import RegistryOverHttp
from migrate.report.document import Report
from migrate.writers.discard import Discard
from tests.archives import layer_json, layer_tar, legacy_id
from tests.cases import registry_cases
from tests.peers import free_port
from tests.registries import extract_tree
from tests.registry_content import RegistryContent
from tests.scripted import Reply, Request, scripted_server
from tests.v1_registry import CHECKSUMS, V1Tree
from tests.v1_server import TOKEN, V1Server

V1_CASES = [case for case in registry_cases() if "registry-v1" in case.name]
NAMES = ("base", "middle", "top")


def plan(source: LegacySource) -> Report:
    options = ConvertOptions(dry_run=True)
    report = Conversion([OpenedSource(source.location, source)], options, Discard()).run().report
    source.close()
    return report


def over_http(host: str, rest: str = "", *, v1: bool = False) -> RegistryOverHttp:
    return RegistryOverHttp(f"docker://{host}{rest}", ReadOptions(dry_run=True), v1=v1, sleep=lambda _: None)


def list_images(host: str, rest: str = "") -> None:
    with closing(over_http(host, rest)) as source:
        source.listing()


def tagged(report: Report) -> dict[tuple[str, ...], tuple[str, list[str]]]:
    """(image ID, notes of its layers) by its names, of each image that has any."""
    return {
        tuple(image.references): (str(image.image_id), sorted(str(row.note) for row in image.layers if row.note))
        for image in report.images
        if image.references
    }


@pytest.fixture
def small(tmp_path: Path) -> V1Server:
    """Three layers, tagged `app:1.0` (all) and `team/app:base` (the first)."""
    tree = V1Tree(tmp_path / "tree", checksum="tarsum")
    for below, name in zip((None, *NAMES), NAMES, strict=False):
        raw = layer_json(legacy_id(name), legacy_id(below) if below else None)
        tree.add_image(legacy_id(name), raw, layer_tar(name))
    tree.add_tag("app", "1.0", legacy_id("top"))
    tree.add_tag("team/app", "base", legacy_id("base"))
    tree._write_ancestries()
    return V1Server(tree.root)


@pytest.mark.parametrize("case", V1_CASES, ids=lambda case: case.name)
def test_the_same_images_as_from_the_storage(case: Any, tmp_path: Path) -> None:
    tree = extract_tree(case, tmp_path)
    root = next(path.parent for path in sorted(tree.rglob("images")) if (path.parent / "repositories").is_dir())
    expected = plan(open_source(str(root)))
    with scripted_server(V1Server(root).answer) as (host, _):
        found = plan(over_http(host))
    assert tagged(found) == tagged(expected)
    assert found.sources[0].type == SourceType.REGISTRY_V1
    lost = {reference for failure in expected.failures for reference in failure.references}
    assert lost <= {reference for failure in found.failures for reference in failure.references}


@pytest.mark.parametrize(
    ("rest", "names"),
    [
        ("", [("app:1.0",), ("team/app:base",)]),
        ("/app", [("app:1.0",)]),
        ("/library/app", [("app:1.0",)]),
        ("/team/app", [("team/app:base",)]),
        ("/app:1.0", [("app:1.0",)]),
    ],
)
def test_a_registry_a_repository_or_a_tag(small: V1Server, rest: str, names: list[tuple[str, ...]]) -> None:
    with scripted_server(small.answer) as (host, _):
        report = plan(over_http(host, rest))
    assert sorted(tagged(report)) == names and not report.failures


@pytest.mark.parametrize("folder", ["nested%2Fname%2Fx", "nested%252Fname%252Fx", "nested"])
def test_names_as_the_storage_quotes_them(small: V1Server, folder: str) -> None:
    """docker-registry-core 2 quotes what docker-registry 0.9 has quoted; the search lists the folders' names."""
    (small.root / "repositories/team/app").rename(small.root / "repositories/team" / folder)
    name = f"team/{folder.replace('%25', '%').replace('%2F', '/')}:base"
    assert (name,) in tagged(plan(open_source(str(small.root))))
    with scripted_server(small.answer) as (host, _):
        assert (name,) in tagged(plan(over_http(host)))
        assert [*tagged(plan(over_http(host, f"/{name}")))] == [(name,)]


def test_v1_by_choice_from_a_server_that_speaks_both(small: V1Server) -> None:
    with scripted_server(lambda request: Reply() if request.path == "/v2/" else small.answer(request)) as (host, _):
        assert len(tagged(plan(over_http(host, v1=True)))) == 2


# --- who gets what -----------------------------------------------------------------------------------------------


def log_in(host: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config.json").write_bytes(encode_config({host: ("user", "s3cret")}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


@pytest.mark.parametrize("challenge", ['Basic realm="r"', 'Token realm="r"'])
def test_a_password(small: V1Server, challenge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.user, small.password, small.challenge = "user", "s3cret", challenge
    with scripted_server(small.answer) as (host, _):
        with pytest.raises(SourceUnreadableError, match="docker login"):
            list_images(host, "/app")
        log_in(host, tmp_path, monkeypatch)
        assert len(tagged(plan(over_http(host)))) == 2


def test_an_index_and_its_registry(small: V1Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index gets the password; the registry that it names gets the token, and the password never."""
    registry = V1Server(small.root, token=TOKEN)
    index = V1Server(small.root, user="user", password="s3cret", token=TOKEN)
    with scripted_server(registry.answer) as (there, seen), scripted_server(index.answer) as (host, asked):
        index.endpoints = f"localhost:{there.partition(':')[2]}, {there}"
        log_in(host, tmp_path, monkeypatch)
        assert list(tagged(plan(over_http(host, "/app")))) == [("app:1.0",)]
    assert {request.headers.get("Authorization") for request in seen} == {f"Token {TOKEN}"}
    assert {request.path for request in asked} == {"/v2/", "/v1/_ping", "/v1/repositories/app/images"}


@pytest.mark.parametrize("challenge", ['Basic realm="r"', 'Bearer realm="{other}/token",service="s"', "Token"])
@pytest.mark.parametrize("named_by", ["endpoints", "redirect"])
def test_another_server_gets_no_password(
    small: V1Server, named_by: str, challenge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.user, small.password = "user", "s3cret"
    other = ""

    def harvester(_: Request) -> Reply:
        return Reply(401, headers={"WWW-Authenticate": challenge.format(other=other)})

    def redirect(request: Request, reply: Reply) -> Reply:
        moved = request.path.endswith(("/layer", "/json", "/ancestry"))
        return Reply(307, headers={"Location": other + request.path}) if moved else reply

    with scripted_server(harvester) as (there, seen), scripted_server(small.answer) as (host, _):
        other = f"http://{there}"
        if named_by == "endpoints":
            small.endpoints = there
        else:
            small.spoil = redirect
        log_in(host, tmp_path, monkeypatch)
        if named_by == "endpoints":
            with pytest.raises(SourceUnreadableError, match="gets no credentials"):
                list_images(host, "/app")
        else:
            report = plan(over_http(host, "/app"))
            assert report.failures and not report.images
    assert seen
    for request in seen:
        assert "Authorization" not in request.headers and not request.path.startswith("/token")


def test_a_token_does_not_go_where_a_registry_redirects_to(small: V1Server) -> None:
    layers = V1Server(small.root)

    def redirect(request: Request, reply: Reply) -> Reply:
        return Reply(302, headers={"Location": f"http://{there}{request.path}"}) if "/layer" in request.path else reply

    with scripted_server(layers.answer) as (there, seen), scripted_server(small.answer) as (host, _):
        small.token, small.spoil = TOKEN, redirect
        assert list(tagged(plan(over_http(host, "/app")))) == [("app:1.0",)]
    assert seen and not any("Authorization" in request.headers for request in seen)


# --- layers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["X-Docker-Payload-Checksum", "X-Docker-Checksum-Payload", "X-Docker-Checksum"])
@pytest.mark.parametrize("checksum", [name for name in CHECKSUMS if name != "missing"])
@pytest.mark.parametrize("states_size", [True, False])
def test_checksums(header: str, checksum: str, states_size: bool, tmp_path: Path) -> None:
    tree = V1Tree(tmp_path / "tree", checksum=checksum)
    tree.add_image(legacy_id("a"), layer_json(legacy_id("a"), None), layer_tar("a"))
    tree.add_tag("app", "1", legacy_id("a"))
    tree._write_ancestries()
    server = V1Server(tree.root, checksum_header=header, states_size=states_size)
    with scripted_server(server.answer) as (host, _):
        assert [note for _, note in tagged(plan(over_http(host))).values()] == [[]]
        (tree.root / "images" / legacy_id("a") / "layer").write_bytes(gzip.compress(layer_tar("b"), mtime=0))
        (notes,) = [notes for _, notes in tagged(plan(over_http(host))).values()]
        assert len(notes) == 1 and "does not match the registry's recorded checksum" in notes[0]


def test_a_layer_goes_on_where_it_broke_off(small: V1Server) -> None:
    cuts = {legacy_id(name): 40 for name in NAMES}

    def cut(request: Request, reply: Reply) -> Reply:
        if not request.path.endswith("/layer") or request.method == "HEAD":
            return reply
        return Reply(reply.status, reply.body, reply.headers, cut=cuts.pop(request.path.split("/")[3], reply.cut))

    small.spoil = cut
    with scripted_server(small.answer) as (host, seen):
        report = plan(over_http(host, "/app"))
    assert list(tagged(report)) == [("app:1.0",)] and not cuts
    assert sum(request.headers.get("Range") == "bytes=40-" for request in seen) == 3


# --- broken answers ----------------------------------------------------------------------------------------------

Spoil = Callable[[Request, Reply], Reply]


def instead(part: str, reply: Reply) -> Spoil:
    return lambda request, real: reply if part in request.path else real


ALL_LOST: dict[str, tuple[Spoil, str]] = {
    "tags are no object": (instead("/tags", Reply(body=b'"1.0"')), "the answer holds no tags"),
    "tags are a list of something else": (instead("/tags", Reply(body=b'["1.0"]')), "the answer holds no tags"),
    "tags are no IDs": (instead("/tags", Reply(body=b'{"1.0": 5}')), "no tag leads to an image"),
    "tags are no JSON": (instead("/tags", Reply(body=b"<html>")), "JSON"),
    "no such repository": (instead("/tags", Reply(404)), "404"),
    "no tag": (instead("/tags", Reply(body=b"{}")), "no tag leads to an image"),
    "endpoints that are none": (
        instead("/images", Reply(body=b"[]", headers={"X-Docker-Endpoints": "a:b:c"})),
        "no host",
    ),
    "too many endpoints": (
        instead("/images", Reply(body=b"[]", headers={"X-Docker-Endpoints": ",".join(f"h{n}" for n in range(99))})),
        "more than 10 hosts",
    ),
    "a token that is none": (instead("/images", Reply(body=b"[]", headers={"X-Docker-Token": "\xfc"})), "not a token"),
    "the index is down": (instead("/repositories", Reply(503)), "503"),
}


@pytest.mark.parametrize(("spoil", "message"), ALL_LOST.values(), ids=ALL_LOST)
def test_broken_answers_about_the_repository(small: V1Server, spoil: Spoil, message: str) -> None:
    real = small.answer

    def answer(request: Request) -> Reply:
        return spoil(request, real(request)) if request.path.startswith("/v1/repositories/") else real(request)

    with scripted_server(answer) as (host, _):
        with pytest.raises(SourceUnreadableError, match=message):
            list_images(host, "/app")


TOP, MIDDLE = legacy_id("top"), legacy_id("middle")
ONE_LOST: dict[str, Spoil] = {
    "no json": instead(f"{MIDDLE}/json", Reply(404)),
    "json is no JSON": instead(f"{MIDDLE}/json", Reply(body=b"<html>")),
    "json is down": instead(f"{MIDDLE}/json", Reply(503)),
    "no layer": instead(f"{MIDDLE}/layer", Reply(404)),
    "layer is cut": instead(f"{MIDDLE}/layer", Reply(body=b"x" * 1000, cut=10)),
    "layer is another": instead(f"{MIDDLE}/layer", Reply(body=b"not a tar at all")),
    "layer is down": instead(f"{MIDDLE}/layer", Reply(500)),
}


@pytest.mark.parametrize("spoil", ONE_LOST.values(), ids=ONE_LOST)
def test_broken_answers_about_one_image_cost_that_image(small: V1Server, spoil: Spoil) -> None:
    small.spoil = spoil
    with scripted_server(small.answer) as (host, _):
        report = plan(over_http(host))
    assert list(tagged(report)) == [("team/app:base",)]
    assert any("app:1.0" in failure.references for failure in report.failures)


@pytest.mark.parametrize("reply", [Reply(404), Reply(body=b"{}"), Reply(body=b"<html>"), Reply(body=b"[5]")])
def test_without_an_ancestry_the_parents_are_followed(small: V1Server, reply: Reply) -> None:
    with scripted_server(small.answer) as (host, _):
        expected = tagged(plan(over_http(host)))
        small.spoil = instead("/ancestry", reply)
        assert tagged(plan(over_http(host))) == expected


@pytest.mark.parametrize("reply", [Reply(404), Reply(501), Reply(body=b"[]"), Reply(body=b'{"results": 5}')])
def test_a_registry_that_cannot_be_searched(small: V1Server, reply: Reply) -> None:
    small.spoil = instead("/v1/search", reply)
    with scripted_server(small.answer) as (host, _):
        with pytest.raises(SourceUnreadableError, match="lists no repositories; name one"):
            list_images(host)
        assert list(tagged(plan(over_http(host, "/app")))) == [("app:1.0",)]


def test_names_that_could_lead_elsewhere(small: V1Server) -> None:
    names = ["../../v2/x", "a b", "app?x=1", "app"]
    body = json.dumps({"results": [{"name": name} for name in names]}).encode()
    small.spoil = instead("/v1/search", Reply(body=body))
    with scripted_server(small.answer) as (host, seen):
        report = plan(over_http(host))
    assert list(tagged(report)) == [("app:1.0",)] and len(report.failures) == 3
    assert not any("x=1" in request.path or "v2/x" in request.path for request in seen)


# --- other servers -----------------------------------------------------------------------------------------------


PAGE = Reply(body=b"<!DOCTYPE html><html></html>", headers={"Content-Type": "text/html"})
NO_V2 = {
    "a page in place of everything": PAGE,
    "some text": Reply(body=b"OK"),
    "forbidden": Reply(403),
    "not allowed": Reply(405),
    "moved to a page": Reply(302, headers={"Location": "/login"}),
}


PINGS = [Reply(body=b"true"), Reply(), Reply(body=b"{}"), Reply(body=b"OK"), Reply(body=b'"0.6.9"')]


@pytest.mark.parametrize(("reply", "ping"), [*zip(NO_V2.values(), PINGS, strict=True)], ids=NO_V2)
def test_what_servers_answer_for_v2_that_have_only_v1(small: V1Server, reply: Reply, ping: Reply) -> None:
    def answer(request: Request) -> Reply:
        if request.path == "/v1/_ping":
            return ping
        if request.path == "/login":
            return PAGE
        return reply if request.path.startswith("/v2/") else small.answer(request)

    with scripted_server(answer) as (host, _):
        assert len(tagged(plan(over_http(host)))) == 2


def test_a_web_server_is_no_registry() -> None:
    with scripted_server(lambda _: PAGE) as (host, _):
        with pytest.raises(SourceUnreadableError, match=r"/v2/: 200, .* nor of v1 .*/v1/_ping: 200, with a page"):
            list_images(host)


@pytest.mark.parametrize("digits", [8, 64])
def test_tags_as_the_hub_listed_them(small: V1Server, digits: int) -> None:
    """A list, with the first digits of the IDs, which its list of images has in full."""

    def spoil(request: Request, reply: Reply) -> Reply:
        if request.path.endswith("/tags") and reply.status == 200:
            tags = [{"layer": value[:digits], "name": tag} for tag, value in json.loads(reply.body).items()]
            return Reply(body=json.dumps([*tags, {"layer": "0" * digits, "name": "gone"}]).encode())
        if request.path.endswith("/images"):
            return Reply(body=json.dumps([{"id": legacy_id(name)} for name in NAMES]).encode())
        return reply

    small.spoil = spoil
    with scripted_server(small.answer) as (host, _):
        report = plan(over_http(host, "/app"))
    assert list(tagged(report)) == [("app:1.0",)]
    assert [failure.references for failure in report.failures] == [("app:gone",)]


def test_one_tag_that_is_none_costs_no_other(small: V1Server) -> None:
    tags = {"1.0": TOP, "number": 5, "object": {"id": TOP}, "empty": "", "with/slash": TOP, "cut": TOP[:40]}
    small.spoil = instead("/repositories/app/tags", Reply(body=json.dumps(tags).encode()))
    with scripted_server(small.answer) as (host, _):
        report = plan(over_http(host, "/app"))
    assert {name for names in tagged(report) for name in names} >= {"app:1.0"}
    lost = {name for failure in report.failures for name in failure.references}
    assert lost == {"app:number", "app:object", "app:empty", "app:cut"}
    assert any("with/slash" in str(image) for image in report.images)


@pytest.mark.parametrize(
    ("base", "version", "rest"),
    [
        ("artifactory/api/docker/Docker-Local", "v1", "/app:1.0"),
        ("artifactory/api/docker/Docker-Local", "v2", ""),
        ("repository/hosted", "v1", ""),
        ("repository/hosted", "v2", "/app"),
    ],
)
def test_a_registry_below_a_path(small: V1Server, base: str, version: str, rest: str, tmp_path: Path) -> None:
    content = RegistryContent()
    content.add("app", "1.0", content.schema1("base", "middle", "top"))
    real = small.answer if version == "v1" else content.answer

    def answer(request: Request) -> Reply:
        path = request.path.removeprefix(f"/{base}")
        return Reply(404) if path == request.path else real(replace(request, path=path))

    with scripted_server(answer) as (host, _):
        report = plan(over_http(host, f"/{base}/{version}{rest}"))
    assert "app:1.0" in {name for names in tagged(report) for name in names} and not report.failures


def test_a_repository_with_a_version_in_its_name(small: V1Server) -> None:
    tree = V1Tree(small.root)
    tree.add_tag("team/v1/app", "1.0", legacy_id("top"))
    with scripted_server(small.answer) as (host, _):
        assert list(tagged(plan(over_http(host, "/team/v1/app")))) == [("team/v1/app:1.0",)]


def test_a_registry_that_the_index_names_and_nobody_can_reach(small: V1Server) -> None:
    """An old registry behind a proxy names itself as the proxy sees it."""
    small.endpoints = f"127.0.0.1:{free_port()}"
    with scripted_server(small.answer) as (host, seen):
        assert list(tagged(plan(over_http(host, "/app")))) == [("app:1.0",)]
    assert seen


def test_a_token_that_has_expired_is_fetched_again(small: V1Server) -> None:
    small.token = "first"

    def spoil(request: Request, reply: Reply) -> Reply:
        if request.path.endswith("/layer"):
            small.token = "second"
        return reply

    small.spoil = spoil
    with scripted_server(small.answer) as (host, seen):
        assert list(tagged(plan(over_http(host, "/app")))) == [("app:1.0",)]
    assert sum(request.path.endswith("/images") for request in seen) >= 2


# --- how layers come ---------------------------------------------------------------------------------------------


def coded(reply: Reply) -> Reply:
    return Reply(reply.status, gzip.compress(reply.body, mtime=0), {**reply.headers, "Content-Encoding": "gzip"})


def with_headers(reply: Reply, **headers: str) -> Reply:
    return replace(reply, headers={**reply.headers, **{name.replace("_", "-"): text for name, text in headers.items()}})


WAYS: dict[str, Callable[[Request, Reply], Reply]] = {
    "compressed once more": lambda request, reply: coded(reply) if request.method == "GET" else reply,
    "stated to be compressed": lambda _, reply: with_headers(reply, Content_Encoding="gzip"),
    "in chunks": lambda _, reply: in_chunks(reply),
    "no HEAD": lambda request, reply: Reply(405) if request.method == "HEAD" else reply,
    "HEAD without a length": lambda request, reply: in_chunks(reply) if request.method == "HEAD" else reply,
    "HEAD states no bytes": lambda request, reply: Reply() if request.method == "HEAD" else reply,
}


def in_chunks(reply: Reply) -> Reply:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (reply.body[:50], reply.body[50:]) if part)
    return Reply(reply.status, body + b"0\r\n\r\n", {**reply.headers, "Transfer-Encoding": "chunked"})


@pytest.mark.parametrize(
    ("way", "stated"),
    [
        *((way, "nothing") for way in WAYS),
        ("in chunks", "too small"),
        ("in chunks", "too large"),
        ("as ever", "too large"),
    ],
)
def test_however_a_layer_comes(small: V1Server, way: str, stated: str) -> None:
    """And whatever size the server states before: checksums decide."""

    def spoil(request: Request, reply: Reply) -> Reply:
        if request.path.endswith("/layer"):
            return WAYS[way](request, reply) if way in WAYS else reply
        if request.path.endswith("/json"):
            sizes = {"nothing": "", "too small": "7", "too large": "70000"}
            return with_headers(reply, X_Docker_Size=sizes[stated])
        return reply

    with scripted_server(small.answer) as (host, _):
        expected = tagged(plan(over_http(host)))
    small.spoil = spoil
    with scripted_server(small.answer) as (host, _):
        found = plan(over_http(host))
    assert tagged(found) == expected and not found.failures


def test_a_layer_of_many_blocks_of_unknown_size_is_checked_to_its_end(tmp_path: Path) -> None:
    tree = V1Tree(tmp_path / "tree", compression="none", checksum="sha256")
    tree.add_image(legacy_id("a"), layer_json(legacy_id("a"), None), layer_tar("a") + bytes(3_000_000))
    tree.add_tag("app", "1", legacy_id("a"))
    server = V1Server(tree.root, states_size=False)
    server.spoil = lambda request, reply: in_chunks(reply) if request.path.endswith("/layer") else reply
    with scripted_server(server.answer) as (host, _):
        assert [note for _, note in tagged(plan(over_http(host))).values()] == [[]]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_layer_without_a_byte(small: V1Server, chunked: bool) -> None:
    empty = in_chunks(Reply()) if chunked else Reply()
    small.spoil = instead(f"{MIDDLE}/layer", empty)
    with scripted_server(small.answer) as (host, _):
        report = plan(over_http(host))
    assert list(tagged(report)) == [("team/app:base",)]
    assert any("0 bytes" in failure.message and "app:1.0" in failure.references for failure in report.failures)


RESUMED: dict[str, Callable[[Reply, bytes], Reply]] = {
    "ignores the range": lambda _, whole: Reply(body=whole),
    "refuses the range": lambda _, whole: Reply(416),
    "gives more than the rest": lambda _, whole: Reply(206, whole[10:], {"Content-Range": f"bytes 10-9/{len(whole)}"}),
    "states no range": lambda reply, whole: Reply(206, whole[40:]),
}


@pytest.mark.parametrize("resumed", RESUMED.values(), ids=RESUMED)
def test_servers_that_cannot_go_on(small: V1Server, resumed: Callable[[Reply, bytes], Reply]) -> None:
    cut = {legacy_id(name): 40 for name in NAMES}

    def spoil(request: Request, reply: Reply) -> Reply:
        if not request.path.endswith("/layer") or request.method == "HEAD":
            return reply
        image_id = request.path.split("/")[3]
        if "Range" in request.headers:
            return resumed(reply, (small.root / "images" / image_id / "layer").read_bytes())
        return replace(reply, cut=cut.pop(image_id, None))

    small.spoil = spoil
    with scripted_server(small.answer) as (host, _):
        report = plan(over_http(host, "/app"))
    assert list(tagged(report)) == [("app:1.0",)] and not report.failures and not cut


def test_a_rest_that_begins_too_late_is_no_rest(small: V1Server) -> None:
    def spoil(request: Request, reply: Reply) -> Reply:
        if request.path.endswith(f"{MIDDLE}/layer") and request.method == "GET":
            late = Reply(206, reply.body[20:], {"Content-Range": "bytes 60-99/100"})
            return late if "Range" in request.headers else replace(reply, cut=40)
        return reply

    small.spoil = spoil
    with scripted_server(small.answer) as (host, _):
        report = plan(over_http(host))
    assert list(tagged(report)) == [("team/app:base",)]
    assert any("continues at byte 60, but only 40 were read" in failure.message for failure in report.failures)


def test_a_server_that_speaks_neither() -> None:
    with scripted_server(lambda _: Reply(404)) as (host, _):
        with pytest.raises(SourceUnreadableError, match=r"not a registry of the v2 protocol .*404.*, nor of v1 .*404"):
            list_images(host)
