"""Whatever stands in a Docker root's files, only errors of ours come out, and an intact image beside it converts."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.errors import MigrateError
from migrate.model.legacy import LegacyID
from tests.roots import RootBuilder, identity, tar_split, write
from tests.stores import read_payload

BAD = identity("bad")
FILES = st.sampled_from(
    [
        f"graph/{BAD}/json",
        f"graph/{BAD}/parent",
        f"graph/{BAD}/layersize",
        f"graph/{BAD}/tar-data.json.gz",
        f"containers/{'c' * 64}/config.json",
        f"overlay/{BAD}/lower-id",
        ".migration-v1-images.json",
        "repositories-overlay",
        "docker.pid",
    ]
)
CONTENTS = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b'{"id":1,"parent":["x"]}',
            b'{"Repositories":{"a":{"b":{"c":1}}}}',
            b'{"Image":{}}',
            b"[" * 5000,
            b"../../../etc/passwd",
            b"\xff\xfe\0",
            BAD.encode(),
            identity("good").encode() + b"\n",
        ]
    ),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(FILES, CONTENTS, max_size=4), st.booleans(), st.integers(0, 400), st.integers(0, 255))
def test_hostile_files(files: dict[str, bytes], with_root: bool, place: int, value: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = RootBuilder(Path(directory), "overlay")
        write(root.add("good") / "f", b"one")
        tree = root.add("bad", "good")
        write(tree / "f", b"two")
        metadata = bytearray(tar_split(bytes(1024)))
        metadata[place % len(metadata)] = value
        write(root.path / "graph" / BAD / "tar-data.json.gz", bytes(metadata))
        if not with_root:
            tree.rename(tree.parent / "upper")
        for name, content in files.items():
            write(root.path / name, content)
        source = root.open()
        listing = source.listing()
        good = source.read_layer(identity("good"))
        assert read_payload(source, good).exact
        for legacy_id in [*listing.layers, *(image.head for image in listing.images)]:
            with contextlib.suppress(MigrateError):
                read_payload(source, source.read_layer(LegacyID(legacy_id)))
