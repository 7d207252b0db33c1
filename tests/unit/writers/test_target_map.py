"""The map of a target is that of a plain merge of all rows, also if those of the run are in a temporary file."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from migrate.blobio import sorted_runs
from migrate.documents.image_map import (
    MappedImage,
    encode_map,
    iter_own_map,
    merge_rows,
    parse_map,
    rename_rows,
    with_names,
)
from migrate.errors import DocumentError
from migrate.layout.names import MAP_NAME
from migrate.model.digest import Digest, ImageID
from migrate.storage.directory_store import DirectoryStore
from migrate.writers import target_map
from migrate.writers.target_map import TargetMap

TEXTS = ("app:1", "b", "caf\u00e9:2", "z")


def digest(number: int) -> Digest:
    return Digest.of(bytes([number]))


def random_row(choose: random.Random) -> MappedImage:
    def texts() -> tuple[str, ...]:
        return tuple(sorted(choose.sample(TEXTS, choose.randrange(3))))

    return MappedImage(
        legacy_id=choose.choice("abcdef"),
        image_id=ImageID(digest(choose.randrange(3))),
        manifest_digest=choose.choice([None, digest(10), digest(11), digest(12)]),
        references=texts(),
        names=texts(),
        containers=texts(),
        legacy_digests=tuple(sorted(digest(choose.randrange(3)) for _ in range(choose.randrange(2)))),
        platform="linux/amd64",
        sources=texts(),
        created=choose.choice([None, "2014-01-02T03:04:05Z"]),
    )


def plain_rows(rows: list[MappedImage]) -> list[MappedImage]:
    groups: dict[tuple[str, str, str], list[MappedImage]] = defaultdict(list)
    for row in rows:
        groups[row.legacy_id, str(row.image_id), str(row.manifest_digest)].append(row)
    return [
        replace(
            same[0],
            references=tuple(sorted({text for row in same for text in row.references})),
            names=tuple(sorted({text for row in same for text in row.names})),
            containers=tuple(sorted({text for row in same for text in row.containers})),
            sources=tuple(sorted({text for row in same for text in row.sources})),
            legacy_digests=tuple(sorted({one for row in same for one in row.legacy_digests})),
            created=next((row.created for row in same if row.created), None),
            removed=all(row.removed for row in same),
        )
        for _, same in sorted(groups.items())
    ]


@pytest.mark.parametrize("most", [2, 1_000_000])
@pytest.mark.parametrize("number", range(20))
def test_random_rows(most: int, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_ROWS_IN_MEMORY", "_ROWS_A_RUN", "_ROWS_A_BLOCK"):
        monkeypatch.setattr(sorted_runs, name, most)
    monkeypatch.setattr(target_map, "_LARGE_MAP", most)  # also the rows that are there are in a file
    choose = random.Random(number)
    store = DirectoryStore(tmp_path)
    expected: list[MappedImage] = []
    for run in range(3):
        table = TargetMap(store, None)
        added = [random_row(choose) for _ in range(choose.choice([0, 1, 30]))]
        table.add(added)
        again = {row.legacy_id for row in added}
        earlier = {row.manifest_digest for row in expected if row.legacy_id in again}
        assert table.superseded() == earlier - {row.manifest_digest for row in added} - {None}
        gone = [digest(11)] if choose.random() < 0.3 else []
        granted = {"app:1": [digest(10)], "new": [digest(11), digest(12)]} if run else {}
        table.write(lambda rows, granted=granted: rename_rows(rows, granted), removed=gone)  # type: ignore[misc]
        expected = [
            with_names(
                replace(row, removed=row.removed or row.manifest_digest in gone),
                {name for name in row.names if name not in granted}
                | {name for name, digests in granted.items() if row.manifest_digest in digests},
            )
            for row in plain_rows([*expected, *added])
        ]
        content = store.read(MAP_NAME, 1 << 20)
        assert list(parse_map(content)) == expected if content is not None else not expected
    store.close()


@pytest.mark.parametrize("number", range(30))
def test_a_map_is_parsed_row_by_row(number: int) -> None:
    choose = random.Random(number)
    rows = merge_rows(random_row(choose) for _ in range(choose.choice([1, 2, 20])))
    raw = encode_map(rows)
    assert tuple(iter_own_map(raw)) == rows == parse_map(raw)
    # of any other document, no row is wrong or missing unless there is an error
    for _ in range(300):
        start = choose.randrange(len(raw))
        other = (
            raw[:start]
            + choose.choice([b"", b"}", b"\n    },\n    {", b'"', b" "])
            + raw[start + choose.randrange(9) :]
        )
        try:
            found = tuple(iter_own_map(other))
        except DocumentError:
            continue
        assert found == parse_map(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b"\n", b"\r\n"),
        lambda raw: raw.replace(b"\n  ]\n}", b'\n  ],\n  "more": 1\n}'),
        lambda raw: raw.replace(b'  "schema_version": 1', b'  "schema_version": 2'),
        lambda raw: encode_map([*parse_map(raw)][::-1]),
        lambda raw: encode_map([]),
        lambda raw: b"",
    ],
)
def test_other_forms_are_not_parsed_row_by_row(change: Callable[[bytes], bytes]) -> None:
    choose = random.Random(1)
    with pytest.raises(DocumentError):
        list(iter_own_map(change(encode_map(merge_rows(random_row(choose) for _ in range(9))))))
