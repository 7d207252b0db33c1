"""Vectors with known image IDs: two images of moby's own migration test, and nine documents computed with Go.

Every layer is the empty tar. The first two are published in moby's migrate/v1/migratev1_test.go (1.10.3), as a store of
Docker 1.9 has them; their IDs are those that the test compares.
"""

from __future__ import annotations

import hashlib

import pytest

from migrate.compose.config import HistoryStep, compose_config
from migrate.model.digest import DiffID, Digest
from tests.layer_json import carried_members, parse_v1_json

EMPTY_TAR = DiffID(Digest("5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"))

# fmt: off
BUSYBOX_BASE = (
    rb'{"architecture":"amd64","config":{"Hostname":"23304fc829f9","Domainname":"","User":"","AttachStdin":'
    rb'false,"AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env'
    rb'":null,"Cmd":null,"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels'
    rb'":null},"container":"23304fc829f9b9349416f6eb1afec162907eba3a328f51d53a17f8986f865d65","container_co'
    rb'nfig":{"Hostname":"23304fc829f9","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,'
    rb'"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":["/bin/sh","-c'
    rb'","#(nop) ADD file:a3bc1e842b69636f9df5256c49c5374fb4eef1e281fe3f282c65fb853ee171c5 in /"],"Image":"'
    rb'","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null},"created":"2015-10-'
    rb'31T22:22:54.690851953Z","docker_version":"1.8.2","layer_id":"sha256:55dc925c23d1ed82551fd018c27ac3ee'
    rb'731377b6bad3963a2a4e76e753d70e57","os":"linux"}'
)
BUSYBOX_CHILD = (
    rb'{"architecture":"amd64","config":{"Hostname":"23304fc829f9","Domainname":"","User":"","AttachStdin":'
    rb'false,"AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env'
    rb'":null,"Cmd":["sh"],"Image":"d1592a710ac323612bd786fa8ac20727c58d8a67847e5a65177c594f43919498","Volu'
    rb'mes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null},"container":"349b014153779'
    rb'e30093d94f6df2a43c7a0a164e05aa207389917b540add39b51","container_config":{"Hostname":"23304fc829f9","'
    rb'Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,"'
    rb'OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":["/bin/sh","-c","#(nop) CMD [\"sh\"]"],"Image":"'
    rb'd1592a710ac323612bd786fa8ac20727c58d8a67847e5a65177c594f43919498","Volumes":null,"WorkingDir":"","En'
    rb'trypoint":null,"OnBuild":null,"Labels":null},"created":"2015-10-31T22:22:55.613815829Z","docker_vers'
    rb'ion":"1.8.2","layer_id":"sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4","o'
    rb's":"linux","parent_id":"sha256:039b63dd2cbaa10d6015ea574392530571ed8d7b174090f032211285a71881d0"}'
)
# fmt: on


def of_docker_1_8_2(document: bytes, legacy_id: bytes, parent: bytes | None) -> bytes:
    """The same image as Docker 1.8.2 stored it: IDs in the JSON, and fields that 1.9 no longer wrote."""
    head, found, _ = document.partition(b',"layer_id":')
    assert found
    struct = head.replace(b'"WorkingDir":""', b'"VolumeDriver":"","WorkingDir":""')
    struct = struct.replace(b'"OnBuild":null', b'"NetworkDisabled":false,"OnBuild":null')
    link = b"" if parent is None else b'"parent":"' + parent + b'",'
    return struct + b',"id":"' + legacy_id + b'",' + link + b'"os":"linux","Size":1113436}'


def image_id(*documents: bytes) -> str:
    """Of a chain, base first, in which no layer is a bare history step."""
    history = [HistoryStep.of(parse_v1_json(document), empty_layer=False) for document in documents]
    config = compose_config(carried_members(documents[-1]), history, [EMPTY_TAR] * len(documents))
    return hashlib.sha256(config).hexdigest()


def test_images_of_moby_s_migration_test() -> None:
    assert image_id(BUSYBOX_BASE) == "ca406eaf9c26898414ff5b7b3a023c33310759d6203be0663dbf1b3a712f432d"
    assert image_id(BUSYBOX_BASE, BUSYBOX_CHILD) == "a488bec94bb96b26a968f913d25ef7d8d204d727ca328b52b4b059c7d03260b6"


def test_the_form_of_docker_1_8_2_gives_the_same_images() -> None:
    base_id, child_id = b"d1592a710ac3" + b"0" * 52, b"17583c7dd0da" + b"0" * 52
    base = of_docker_1_8_2(BUSYBOX_BASE, base_id, None)
    child = of_docker_1_8_2(BUSYBOX_CHILD, child_id, base_id)
    assert image_id(base) == image_id(BUSYBOX_BASE)
    assert image_id(base, child) == image_id(BUSYBOX_BASE, BUSYBOX_CHILD)


A64, B64 = b"a" * 64, b"b" * 64
S1 = b'{"id":"' + A64 + b'","created":"2013-06-13T14:03:50.821769-07:00"}'


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        pytest.param(
            [S1], "0ec51fb2fb856115c2f49685345d1629753094998c8c9e3f46d9911743f46fac", id="S1: offset of the time kept"
        ),
        pytest.param(
            [
                rb'{"Id":"' + A64 + rb'","Comment":"<b> & \u2028 \u00e9\u0007","created":"2014-01-02T03:04:05.600Z",'
                rb'"docker_version":"0.6.4","container_config":{"Hostname":"h","Memory":0,"PortSpecs":null,"Cmd":"sh",'
                rb'"Env":[],"ExposedPorts":{},"Volumes":{"/b":{},"/a":{}},"Entrypoint":[]},"architecture":"x86_64",'
                rb'"foo":1,"Size":7}'
            ],
            "1f7d29b190ae22fdf8bbe4ae4b1efe364a15017556a5df2ff8ce1f2f53f5e8de",
            id="S2: through the structs",
        ),
        pytest.param(
            [
                b'{"id":"' + A64 + b'",\n "created":"2015-01-01T00:00:00.100+00:00", "docker_version":"1.9.0-dev", '
                b'"config": { "VolumeDriver" : "x\\/y<", "Cmd":null }, "foo": 1.50e+3, "throwaway":true, '
                b'"layer_id":"sha256:00", "Size":0, "size":9}'
            ],
            "44e4bd76eaafb4f11ff1a07337fd7d0fa9a2a770fbd37f813d1faddf20f425b0",
            id="S3: raw values",
        ),
        pytest.param(
            [
                S1,
                b'{"id":"' + B64 + b'","parent":"' + A64 + b'","created":"2014-01-01T00:00:00Z","author":"A <a@b>",'
                b'"container_config":{"Cmd":["/bin/sh","-c","#(nop) X"]},"docker_version":"1.5.0","os":"linux",'
                b'"architecture":"amd64"}',
            ],
            "fe3a111d6b9e42d9fdb88e5936bac4b524d44ae9b25043b1c09b638d2b1f1c73",
            id="S4: two layers",
        ),
        pytest.param(
            [b'{"id":"' + A64 + b'","docker_version":"1.0.0"}'],
            "8bc77ba1b740f5d6fbdb82ea2044e9bddcccc6ab0a03274842ffef587e3334f8",
            id="S5: no created",
        ),
        pytest.param(
            [b'{"id":"' + A64 + b'","created":"2014-01-01T00:00:00Z","comment":"caf\xe9","docker_version":"1.2.0"}'],
            "abb23aef6cc88fa07df966ad15accbdddf8fe962f1887bc41941e0384cf66f21",
            id="S6: not UTF-8, through the structs",
        ),
        pytest.param(
            [b'{"id":"' + A64 + b'","created":"2014-01-01T00:00:00Z","comment":"caf\xe9","docker_version":"1.9.1"}'],
            "0c4fcb79c7a2c441f3f5267fd2e241ef9de872fbd13bdfc5fe83af81f8f38c61",
            id="S7: not UTF-8, raw",
        ),
        pytest.param(
            [b'{"id":"' + A64 + b'","created":"2016-01-01T00:00:00Z","docker_version":"17.06.2-ce","config":null}'],
            "4a6a7ef6b13eccc25af108f7df9975c3b603795a1e89ff538e439dffdc5543ed",
            id="S8: null kept raw",
        ),
        pytest.param(
            [
                b'{"id":"' + A64 + b'","created":"2016-01-01T00:00:00Z","docker_version":"1.8.3-rc1","config":null,'
                b'"x":1}'
            ],
            "2d2df579ba1e90a2ef09e0a79df3c3863a26a7c9d90cffef397cf669ae9b99fe",
            id="S9: a release candidate counts as older",
        ),
    ],
)
def test_documents_computed_with_go(documents: list[bytes], expected: str) -> None:
    assert image_id(*documents) == expected
