"""Archives in the forms that the tools around Docker wrote, each by code of its own: what differs from `docker save`.

`SHAPES`: name → the archive's bytes. The names begin with the tool whose form it is; `docker` is the engine itself.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from tests.archives import Members, build_tar, legacy_id, link

PLAIN_CONFIG: Final = {
    "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False,
    "ExposedPorts": None, "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": None, "Cmd": None, "Image": "",
    "Volumes": None, "WorkingDir": "", "Entrypoint": None, "OnBuild": None,
}  # fmt: skip
SETTINGS: Final = {**PLAIN_CONFIG, "Env": ["HOME=/", "PATH=/bin"], "Cmd": ["/bin/sh"], "ExposedPorts": {"80/tcp": {}}}


def tree(name: str, prefix: str = "", kind: int = tarfile.USTAR_FORMAT) -> bytes:
    """A layer of a folder and a file; `prefix` is how the tool writes the names in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        folder = tarfile.TarInfo(f"{prefix}etc/")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        file = tarfile.TarInfo(f"{prefix}etc/{name}")
        file.size = len(name)
        archive.addfile(file, io.BytesIO(name.encode()))
    return buffer.getvalue()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def folder(name: str) -> tuple[str, tarfile.TarInfo]:
    member = tarfile.TarInfo(f"{name}/")
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    return member.name, member


Made = Callable[[], bytes]
SHAPES: dict[str, Made] = {}


def shape(name: str) -> Callable[[Made], Made]:
    def add(build: Made) -> Made:
        SHAPES[name] = build
        return build

    return add


# --- the v1 form -----------------------------------------------------------------------------------------------------


def v1_document(number: int, **fields: Any) -> dict[str, Any]:
    """The json of a layer; fields that are None are left out."""
    document: dict[str, Any] = {
        "id": legacy_id(f"shape {number}"),
        "parent": legacy_id(f"shape {number - 1}") if number else None,
        "created": f"2014-03-0{number + 1}T10:11:12.123456789Z",
        "container_config": {**PLAIN_CONFIG, "Cmd": ["/bin/sh", "-c", f"#(nop) step {number}"]},
        "docker_version": "1.3.3",
        "config": SETTINGS,
        "architecture": "amd64",
        "os": "linux",
        "Size": 5,
    }
    return {key: value for key, value in {**document, **fields}.items() if value is not None}


def v1(
    documents: Sequence[bytes | Mapping[str, Any]],
    *,
    tag: str | None = "tool/app:1.0",
    layers: Mapping[int, bytes] | None = None,
    prefix: str = "",
    version: bytes | None = b"1.0",
    folders: bool = True,
    extra: Members | None = None,
) -> Members:
    members: Members = []
    for number, document in enumerate(documents):
        identity = f"{prefix}{legacy_id(f'shape {number}')}"
        members += [folder(identity)] if folders else []
        members += [(f"{identity}/VERSION", version)] if version is not None else []
        members.append((f"{identity}/json", document if isinstance(document, bytes) else compact(document)))
        members.append((f"{identity}/layer.tar", (layers or {}).get(number, tree(f"file{number}"))))
    if tag is not None:
        name, _, version_tag = tag.rpartition(":")
        top = legacy_id(f"shape {len(documents) - 1}")
        members.append((f"{prefix}repositories", compact({name: {version_tag: top}})))
    return members + (extra or [])


def chain(count: int = 2, **top: Any) -> list[dict[str, Any]]:
    return [v1_document(number, **(top if number == count - 1 else {})) for number in range(count)]


def add_v1(name: str, **top: Any) -> None:
    """A shape whose json differs in `top` from that of a plain save."""
    SHAPES[name] = lambda: build_tar(v1(chain(**top)))


API_FORM: Final = {
    "Id": legacy_id("shape 1"), "Parent": legacy_id("shape 0"), "Comment": "", "Created": "2014-03-02T10:11:12.1Z",
    "Container": "ab" * 32, "ContainerConfig": {**PLAIN_CONFIG, "Cmd": ["true"]}, "DockerVersion": "1.0.1",
    "Author": "", "Config": SETTINGS, "Architecture": "amd64", "Os": "linux", "Size": 5,
}  # fmt: skip
SHAPES["docker-py: json as the remote API has it"] = lambda: build_tar(v1([v1_document(0), API_FORM]))
add_v1("docker-py: import_image", comment="Imported from -", container_config=PLAIN_CONFIG, config=PLAIN_CONFIG)
add_v1("docker-py: a command as one text", config={**SETTINGS, "Cmd": "/bin/sh -c true"})
add_v1("docker-py: environment as an object", config={**SETTINGS, "Env": {"A": "b"}})
add_v1("docker-py: ports as an array", config={**SETTINGS, "ExposedPorts": [80]})
add_v1(
    "docker-py: labels with values that are no texts", config={**SETTINGS, "Labels": {"a": 1}}, docker_version="1.9.1"
)
add_v1(
    "packer: import with changes", comment="Imported from -", config={**SETTINGS, "User": "app", "WorkingDir": "/srv"}
)
add_v1("packer: commit with author and message", author="A Person <a@example.org>", comment="built & <sealed>")
add_v1("imagefactory: Docker 0.6 on x86_64", docker_version="0.6.4", architecture="x86_64", os=None)
add_v1("imagefactory: no time", created=None)
add_v1("imagefactory: a time with a space", created="2014-03-02 10:11:12")
add_v1("imagefactory: a time with an offset", created="2014-03-02T10:11:12+02:00")
add_v1("kiwi: without settings", config=None, container_config=None)
add_v1(
    "bazel: settings alone", container_config=None, docker_version=None, created="0001-01-01T00:00:00Z", author="Bazel"
)
add_v1("buildroot: another architecture", architecture="arm")
add_v1("squash: the json states another id", id="cd" * 32)
add_v1("squash: no id in the json", id=None)
add_v1("squash: a size that is no whole number", Size=1.5)
add_v1("squash: unknown fields are kept from 1.8.3 on", docker_version="1.8.3", squashed_by={"tool": [1, 2.50, None]})
add_v1("squash: unknown fields before that", squashed_by={"tool": [1, 2.50, None]})
add_v1("windows: another system", os="windows")


@shape("nix: names with ./, a static time, layers with ./")
def _nix_v1() -> bytes:
    documents = [
        {**v1_document(number), "created": "1970-01-01T00:00:01Z", "docker_version": "1.6.0"} for number in range(2)
    ]
    layers = {number: tree(f"file{number}", prefix="./", kind=tarfile.GNU_FORMAT) for number in range(2)}
    return build_tar([folder("."), *v1(documents, prefix="./", layers=layers)])


@shape("nix: indented json with a line feed behind it")
def _nix_indented() -> bytes:
    return build_tar(v1([json.dumps(document, indent=1).encode() + b"\n" for document in chain()]))


@shape("bazel: a file named top")
def _bazel_top() -> bytes:
    return build_tar([folder("."), *v1(chain(), prefix="./", extra=[("./top", legacy_id("shape 1").encode())])])


@shape("imagefactory: one layer, pretty json, VERSION with a line feed")
def _imagefactory() -> bytes:
    document = {**v1_document(0), "comment": "Created by Image Factory", "docker_version": "0.6.3"}
    return build_tar(v1([json.dumps(document, sort_keys=True, indent=4).encode()], version=b"1.0\n"))


@shape("dogestry: no VERSION, no folders")
def _no_version() -> bytes:
    return build_tar(v1(chain(), version=None, folders=False))


@shape("squash: no repositories")
def _untagged() -> bytes:
    return build_tar(v1(chain(), tag=None))


@shape("squash: two layers become one, their folders stay")
def _squashed() -> bytes:
    squashed = legacy_id("squashed")
    document = {**v1_document(1), "id": squashed, "parent": None}
    del document["parent"]
    extra: Members = [
        (f"{squashed}/json", compact(document)),
        (f"{squashed}/layer.tar", tree("all")),
        ("repositories", compact({"tool/app": {"squashed": squashed}})),
    ]
    return build_tar(v1(chain(), tag=None, extra=extra))


@shape("squash: an empty layer of 1,024 zeros")
def _empty() -> bytes:
    return build_tar(v1(chain(), layers={1: bytes(1024)}))


@shape("squash: a layer of 0 bytes")
def _nothing() -> bytes:
    return build_tar(v1(chain(), layers={1: b""}))


@shape("squash: layer.tar compressed by gzip")
def _gzipped_layer() -> bytes:
    return build_tar(v1(chain(), layers={1: gzip.compress(tree("file1"), mtime=0)}))


@shape("squash: layer.tar missing")
def _no_layer() -> bytes:
    gone = f"{legacy_id('shape 1')}/layer.tar"
    return build_tar([member for member in v1(chain()) if member[0] != gone])


@shape("squash: json missing")
def _no_json() -> bytes:
    gone = f"{legacy_id('shape 1')}/json"
    return build_tar([member for member in v1(chain()) if member[0] != gone])


@shape("docker-save-last-layer: the parent is left out")
def _last_layer() -> bytes:
    base = legacy_id("shape 0")
    return build_tar([member for member in v1(chain()) if not member[0].startswith(base)])


@shape("docker-merge: a layer as a link to an equal one")
def _linked_layer() -> bytes:
    path = f"{legacy_id('shape 1')}/layer.tar"
    members = [member for member in v1(chain()) if member[0] != path]
    return build_tar([*members, link(path, f"../{legacy_id('shape 0')}/layer.tar")])


@shape("docker-merge: a layer as a hard link")
def _hard_linked_layer() -> bytes:
    path, target = (f"{legacy_id(f'shape {number}')}/layer.tar" for number in (1, 0))
    members = [member for member in v1(chain()) if member[0] != path]
    return build_tar([*members, link(path, target, tarfile.LNKTYPE)])


@shape("powershell: json with a byte order mark")
def _with_mark() -> bytes:
    return build_tar(v1([b"\xef\xbb\xbf" + compact(document) for document in chain()]))


@shape("powershell: json with CR and LF")
def _with_returns() -> bytes:
    texts = [json.dumps(document, indent=2).replace("\n", "\r\n").encode() for document in chain()]
    return build_tar(v1(texts))


@shape("sed: a key twice in the json")
def _twice() -> bytes:
    first, second = chain()
    return build_tar(v1([first, compact(second)[:-1] + b',"author":"one","author":"two"}']))


@shape("sed: a comma behind the last member")
def _comma() -> bytes:
    first, second = chain()
    return build_tar(v1([first, compact(second)[:-1] + b",}"]))


@shape("perl: text that is not UTF-8")
def _latin_1() -> bytes:
    first, second = chain(author="Ren\u00e9")
    return build_tar(v1([first, json.dumps(second, ensure_ascii=False).encode("latin-1")]))


for _name, _pack in {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}.items():
    SHAPES[f"kiwi: packed by {_name}"] = lambda pack=_pack: pack(build_tar(v1(chain())))  # type: ignore[misc]


@shape("bsdtar: pax headers around everything")
def _pax() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in v1(chain()):
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.mtime, member.uname = 1394000000.5, "r\u00e9n\u00e9"
            data = content if isinstance(content, bytes) else b""
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


# --- the form of 1.10 and later --------------------------------------------------------------------------------------


def config(layers: Sequence[bytes], **fields: Any) -> bytes:
    document: dict[str, Any] = {
        "architecture": "amd64",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
        "created": "2017-03-01T10:11:12Z",
        "history": [{"created": "2017-03-01T10:11:12Z", "created_by": f"step {n}"} for n in range(len(layers))],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha(layer)}" for layer in layers]},
    }
    return compact({key: value for key, value in {**document, **fields}.items() if value is not None})


def ready(
    name_of_config: Callable[[bytes], str],
    name_of_layer: Callable[[int, bytes], str],
    *,
    tags: Sequence[str] | None = ("tool/app:1.0",),
    stored: Callable[[bytes], bytes] = bytes,
    extra: Members | None = None,
    **fields: Any,
) -> bytes:
    """`name_of_layer` gets a layer's number and its bytes as they are stored."""
    layers = [tree(f"file{number}") for number in range(2)]
    document = config(layers, **fields)
    kept = [stored(layer) for layer in layers]
    names = [name_of_layer(number, layer) for number, layer in enumerate(kept)]
    entry = {"Config": name_of_config(document), "RepoTags": tags, "Layers": names}
    members: Members = [(entry["Config"], document), *zip(names, kept, strict=True)]  # type: ignore[list-item]
    return build_tar([*members, ("manifest.json", compact([entry])), *(extra or [])])


def squeezed(layer: bytes) -> bytes:
    return gzip.compress(layer, mtime=0)


def by_hash(document: bytes) -> str:
    return f"{sha(document)}.json"


def in_folder(number: int, layer: bytes) -> str:
    return f"{legacy_id(f'shape {number}')}/layer.tar"


SHAPES |= {
    "jib: config.json, layers by digest": lambda: ready(
        lambda _: "config.json",
        lambda _, layer: f"{sha(layer)}.tar.gz",
        stored=squeezed,
        created="1970-01-01T00:00:00Z",
        history=[{"created": "1970-01-01T00:00:00Z", "author": "Jib", "created_by": "jib-maven-plugin:1.0"}] * 2,
    ),
    "kaniko: config named by its digest, no .json": lambda: ready(
        lambda document: f"sha256:{sha(document)}", lambda _, layer: f"{sha(layer)}.tar.gz", stored=squeezed
    ),
    "ko: without tags": lambda: ready(
        lambda document: f"sha256:{sha(document)}",
        lambda _, layer: f"{sha(layer)}.tar.gz",
        stored=squeezed,
        tags=None,
        history=None,
    ),
    "bazel: numbered layers": lambda: ready(by_hash, lambda number, _: f"{number:03}.tar"),
    "nix: layers in folders of their own": lambda: ready(
        by_hash, in_folder, created="1970-01-01T00:00:01Z", history=None
    ),
    "buildpacks: names from the root on": lambda: ready(
        lambda document: f"/{sha(document)}.json", lambda _, layer: f"/{sha(layer)}.tar", created="1980-01-01T00:00:01Z"
    ),
    "guix: manifest.json beside v1 folders": lambda: ready(
        lambda _: "config.json", in_folder, extra=v1(chain(), version=b"1.0")[:2], created="1970-01-01T00:00:01Z"
    ),
    "skopeo: layers by diffID": lambda: ready(by_hash, lambda _, layer: f"{sha(layer)}.tar"),
    "podman: names with their registry": lambda: ready(
        by_hash, lambda _, layer: f"{sha(layer)}.tar", tags=("localhost/tool/app:1.0", "docker.io/library/app:2")
    ),
    "img: more history than layers": lambda: ready(
        by_hash,
        in_folder,
        history=[{"created_by": "a"}, {"created_by": "b", "empty_layer": True}, {"created_by": "c"}],
    ),
    "squash: one step of history for two layers": lambda: ready(
        by_hash, in_folder, history=[{"created_by": "squashed"}]
    ),
    "squash: more steps with a layer than layers": lambda: ready(
        by_hash, in_folder, history=[{"created_by": str(number)} for number in range(3)]
    ),
    "copyedit: a config that is not what its name says": lambda: ready(lambda _: f"{'ab' * 32}.json", in_folder),
    "copyedit: a wrong diffID": lambda: ready(
        by_hash, in_folder, rootfs={"type": "layers", "diff_ids": [f"sha256:{'ab' * 32}", f"sha256:{'cd' * 32}"]}
    ),
    "crane: one layer twice": lambda: ready(by_hash, lambda *_: "same.tar", rootfs=_twice_the_same()),
}


# Members of a ready config: those that an engine reads have to be of their type, all others are carried over.
_SETTINGS_OF_CONFIGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "Entrypoint as a text": {"config": {"Entrypoint": "/bin/sh"}},
    "Healthcheck with an interval as a text": {"config": {"Healthcheck": {"Test": ["NONE"], "Interval": "30s"}}},
    "Labels as an array": {"config": {"Labels": ["a=b"]}},
    "User as a number": {"config": {"User": 1000}},
    "empty_layer as a text": {"history": [{"empty_layer": "no"}] * 2},
    "history with a time without a zone": {"history": [{"created": "2017-03-01T10:11:12"}] * 2},
    "os.features as a text": {"os.features": "win32k"},
    "ports as an array": {"config": {"ExposedPorts": ["80/tcp"]}},
    "time without a zone": {"created": "2017-03-01T10:11:12"},
    "unknown members of any type": {"config": {"Owner": 1}, "moby.buildkit.cache.v0": [1], "variant": None},
}
for _name, _fields in _SETTINGS_OF_CONFIGS.items():
    SHAPES[f"jq: config, {_name}"] = partial(ready, by_hash, in_folder, **_fields)


def _twice_the_same() -> dict[str, Any]:
    return {"type": "layers", "diff_ids": [f"sha256:{sha(tree('file1'))}"] * 2}


def _named(place: str) -> Made:
    """manifest.json names everything so; the members have Docker's names."""

    def build() -> bytes:
        layers = [tree(f"file{number}") for number in range(2)]
        entry = {
            "Config": f"{place}c.json",
            "RepoTags": ["tool/app:1.0"],
            "Layers": [f"{place}{number}/layer.tar" for number in range(2)],
        }
        members: Members = [(f"{number}/layer.tar", layer) for number, layer in enumerate(layers)]
        return build_tar([*members, ("c.json", config(layers)), ("manifest.json", compact([entry]))])

    return build


for _place in ("/", "a/b/../.././"):
    SHAPES[f"shell: manifest.json names files by {_place}"] = _named(_place)


@shape("buildpacks: a blank in place of a layer of the daemon")
def _blank() -> bytes:
    layers = [tree("of the daemon"), tree("file1")]
    document = config(layers)
    entry = {"Config": by_hash(document), "RepoTags": ["tool/app:1.0"], "Layers": ["blank_0", "top.tar"]}
    return build_tar(
        [(by_hash(document), document), ("blank_0", b""), ("top.tar", layers[1]), ("manifest.json", compact([entry]))]
    )
