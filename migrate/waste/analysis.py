"""Finds what could be saved in addition (`plan --deep`). This is information only: no layer is changed.

`DeepScan` lists the layers' entries while they are hashed; `analyse` then compares them. Every list of the result is
sorted by bytes and depends on the contents only. The lists overlap: two nearly equal layers also have repeated files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, Final

from msgspec import Struct

from migrate.blobio.limits import DEEP_ENTRIES
from migrate.errors import UsageError
from migrate.model.digest import DiffID
from migrate.rehash.ports import JobKey, LayerJob, TarObserver
from migrate.report.document import Report
from migrate.waste.figures import find_waste
from migrate.waste.scan import EntryRoom, LayerScan, ScannedLayer, Vocabulary

ROWS: Final = 100
"""Rows of each list in the report; totals count everything."""
_NAMES: Final = 10
_MARKS: Final = 24
"""So many of a layer's largest contents, and of its contents chosen by their digests, are searched in other layers."""
_CROWD: Final = 30
"""A content in more layers than this makes pairs of neighbours only: all pairs would be the square of the number."""
_MOST_PAIRS: Final = 20_000


class DeepScan:
    """The observer factory of one run, with the scans that it made. Raises UsageError if xxhash (extra `deep`) is
    missing."""

    def __init__(self, entries: int = DEEP_ENTRIES) -> None:
        try:
            import xxhash  # noqa: F401
        except ImportError as exc:
            raise UsageError("--deep needs xxhash: pip install 'docker-legacy-migrate[deep]'") from exc
        self._vocabulary = Vocabulary()
        self._room = EntryRoom(entries)
        self._scans: dict[JobKey, LayerScan] = {}

    def observe(self, job: LayerJob) -> TarObserver | None:
        """An `ObserverFactory`. May be called from several threads."""
        if self._room.exhausted:
            return None
        scan = self._scans[job.key] = LayerScan(self._vocabulary, self._room)
        return scan

    def analyse(self, report: Report, diff_ids: Mapping[JobKey, DiffID]) -> dict[str, Any]:
        """The report's member `deep` (docs/reference/report.md). `diff_ids`: those of the hashed layers."""
        layers: dict[DiffID, ScannedLayer] = {}
        for key, scan in self._scans.items():
            diff_id = diff_ids.get(key)
            if diff_id is not None and scan.layer is not None and scan.layer.paths:
                layers[diff_id] = scan.layer
        return DeepAnalysis(report, layers, self._vocabulary).document(complete=not self._room.exhausted)


class _Content(Struct, frozen=True):
    """One file content: the number of layers with it, the number of its copies, its size, and one of its paths."""

    layers: int
    copies: int
    size: int
    path: bytes


class DeepAnalysis:
    """The analysis of a run. `layers`: its distinct layers that were scanned to their ends."""

    def __init__(self, report: Report, layers: Mapping[DiffID, ScannedLayer], vocabulary: Vocabulary) -> None:
        self._report = report
        self._layers = dict(sorted(layers.items()))
        self._path_of = {number: path for path, number in vocabulary.paths.items()}
        self._digest_of = {number: digest for digest, number in vocabulary.contents.items()}
        self._tar_sizes = {
            layer.diff_id: layer.tar_size for image in report.images for layer in image.layers if layer.diff_id
        }

    def document(self, *, complete: bool) -> dict[str, Any]:
        equal = self._equal_layers()
        near = self._near_layers()
        repeated = self._repeated_files()
        waste = find_waste(self._report, self._layers, self._path_of)
        return {
            "complete": complete,
            "layers": len(self._layers),
            "entries": sum(len(layer.paths) for layer in self._layers.values()),
            "file_bytes": sum(sum(layer.sizes) for layer in self._layers.values()),
            "equal_layers_bytes": sum(row["bytes"] for row in equal),
            "near_layers_bytes": sum(row["bytes"] for row in near),
            "repeated_files_bytes": sum((content.layers - 1) * content.size for content in repeated),
            "wasted_files_bytes": waste.total,
            "equal_layers": equal[:ROWS],
            "near_layers": near[:ROWS],
            "repeated_files": [
                {
                    "bytes": (content.layers - 1) * content.size,
                    "path": show_path(content.path),
                    "size": content.size,
                    "layers": content.layers,
                    "copies": content.copies,
                }
                for content in repeated[:ROWS]
            ],
            "wasted_files": waste.files[:ROWS],
            "images": waste.images[:ROWS],
        }

    # --- equal but for order, header form or times -------------------------------------------------------------------

    def _equal_layers(self) -> list[dict[str, Any]]:
        rows = []
        for members in self._by_content_sum().values():
            if len(members) > 1:
                sizes = [self._tar_sizes.get(diff_id, 0) for diff_id in members]
                same_times = len({self._layers[diff_id].timed_sum for diff_id in members}) == 1
                rows.append(
                    {
                        "bytes": sum(sizes) - max(sizes),
                        "diff_ids": [str(diff_id) for diff_id in members],
                        "differ_in": "order or header form" if same_times else "times",
                    }
                )
        return sorted(rows, key=lambda row: (-_bytes(row), row["diff_ids"]))

    def _by_content_sum(self) -> Mapping[int, list[DiffID]]:
        groups: dict[int, list[DiffID]] = defaultdict(list)
        for diff_id, layer in self._layers.items():
            groups[layer.content_sum].append(diff_id)
        return groups

    # --- different in a few files ------------------------------------------------------------------------------------

    def _near_layers(self) -> list[dict[str, Any]]:
        """Pairs of layers. Each layer is paired with the layer that it shares most bytes with: at least half of the
        larger one."""
        single = [members[0] for members in self._by_content_sum().values()]
        best: dict[DiffID, tuple[int, DiffID]] = {}
        files = {diff_id: _files(self._layers[diff_id]) for diff_id in single}
        # Not all pairs: their number is the square of the number of layers.
        for one, other in self._candidates(single):
            small, large = sorted((files[one], files[other]), key=len)
            shared = sum(entry[1] for path, entry in small.items() if large.get(path) == entry)
            largest = max(sum(size for _, size in files[diff_id].values()) for diff_id in (one, other))
            if shared and 2 * shared >= largest:
                for this, that in ((one, other), (other, one)):
                    if this not in best or (shared, that) > best[this]:
                        best[this] = (shared, that)
        pairs = {tuple(sorted((one, other))): shared for one, (shared, other) in best.items()}
        rows = [self._near_row(one, other, shared, files) for (one, other), shared in pairs.items()]
        return sorted(rows, key=lambda row: (-_bytes(row), row["diff_ids"]))

    def _candidates(self, diff_ids: Iterable[DiffID]) -> Sequence[tuple[DiffID, DiffID]]:
        """Pairs with common contents, those with most first. Only some contents of each layer are compared: the
        largest, and those with the lowest digests, a random choice that is the same in every layer."""
        owners: dict[int, list[DiffID]] = defaultdict(list)
        for diff_id in sorted(diff_ids):
            layer = self._layers[diff_id]
            sizes = {content: size for content, size in zip(layer.contents, layer.sizes, strict=True) if content >= 0}
            by_size = sorted(sizes, key=lambda content: (-sizes[content], self._digest_of[content]))
            by_lot = sorted(sizes, key=lambda content: self._digest_of[content])
            for content in {*by_size[:_MARKS], *by_lot[:_MARKS]}:
                owners[content].append(diff_id)
        votes: dict[tuple[DiffID, DiffID], int] = defaultdict(int)
        # All pairs of a content that is in 1,000 layers would be half a million.
        for members in owners.values():
            crowd = len(members) > _CROWD
            for pair in pairwise(members) if crowd else combinations(members, 2):
                votes[pair] += 1
        ranked = sorted(votes, key=lambda pair: (-votes[pair], pair))
        return ranked[:_MOST_PAIRS]

    def _near_row(
        self, one: DiffID, other: DiffID, shared: int, files: Mapping[DiffID, dict[int, tuple[int, int]]]
    ) -> dict[str, Any]:
        left, right = files[one], files[other]
        differing = [path for path in left.keys() | right.keys() if left.get(path) != right.get(path)]
        sizes = {path: max(left.get(path, (0, 0))[1], right.get(path, (0, 0))[1]) for path in differing}
        names = sorted(differing, key=lambda path: (-sizes[path], self._path_of[path]))
        return {
            "bytes": shared,
            "diff_ids": sorted([str(one), str(other)]),
            "differing_files": len(differing),
            "files": [show_path(self._path_of[path]) for path in names[:_NAMES]],
        }

    # --- the same file in many layers --------------------------------------------------------------------------------

    def _repeated_files(self) -> list[_Content]:
        found: dict[int, list[int]] = {}  # content → layers, copies, size, path
        for layer in self._layers.values():
            here: set[int] = set()
            for content, size, path in zip(layer.contents, layer.sizes, layer.paths, strict=True):
                if content < 0 or not size:
                    continue
                row = found.get(content)
                if row is None:
                    row = found[content] = [0, 0, size, path]
                row[0] += content not in here
                row[1] += 1
                # The first path in order is shown, so that the result does not depend on which thread scanned its layer
                # first.
                if self._path_of[path] < self._path_of[row[3]]:
                    row[3] = path
                here.add(content)
        rows = [
            _Content(layers, copies, size, self._path_of[path])
            for layers, copies, size, path in found.values()
            if layers > 1
        ]
        return sorted(rows, key=lambda row: (-(row.layers - 1) * row.size, row.path, row.size))


def _bytes(row: Mapping[str, Any]) -> int:
    return int(row["bytes"])


def _files(layer: ScannedLayer) -> dict[int, tuple[int, int]]:
    """path → (content, size) of files with content; of a path that occurs twice, the last."""
    return {
        path: (content, size)
        for path, content, size in zip(layer.paths, layer.contents, layer.sizes, strict=True)
        if content >= 0
    }


def show_path(path: bytes) -> str:
    return "/" + path.decode("utf-8", "replace")
