"""Counts hidden bytes: files that a later layer of the same image deletes or replaces.

The chains of all images form a tree, so that images with a common base share the work: one file system is changed on
the way down the tree and restored on the way up, and each layer is applied once for each of its places in the tree. A
hard link counts no bytes, its target all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct, field

from migrate.model.digest import DiffID
from migrate.report.document import Report, ReportImage
from migrate.waste.scan import DIRECTORY_CONTENT, ScannedLayer

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_AUFS: Final = b".wh..wh."


class Waste(Struct, frozen=True):
    """The hidden bytes. `total` counts each hidden file of a layer once; `files` and `images`: rows of the report, the
    largest first."""

    total: int
    files: list[dict[str, Any]]
    images: list[dict[str, Any]]


class _Place(Struct):
    """A layer at one place in the tree of chains."""

    diff_id: DiffID | None = None
    children: dict[DiffID, _Place] = field(default_factory=dict)
    images: list[ReportImage] = field(default_factory=list)


class _Node:
    """A name in the current file system: its size, the layer that it comes from, and its children."""

    __slots__ = ("children", "layer", "size")

    def __init__(self, size: int, layer: DiffID | None, children: dict[bytes, _Node] | None) -> None:
        self.size = size
        self.layer = layer
        self.children = children


_Undo = list[tuple[dict[bytes, "_Node"], bytes, "_Node | None"]]
_Hidden = tuple[bytes, DiffID, int]  # path, layer with the file, size


def find_waste(report: Report, layers: Mapping[DiffID, ScannedLayer], path_of: Mapping[int, bytes]) -> Waste:
    """The hidden bytes of all images. `layers`: those that were scanned; others count as empty."""
    walk = _Walk(layers, path_of)
    # A tree of the images' chains: images with common base layers share places, so that each chain is walked once.
    root = _Place()
    for image in report.images:
        place = root
        for layer in image.layers:
            if layer.diff_id is not None and not layer.empty:
                place = place.children.setdefault(layer.diff_id, _Place(layer.diff_id))
        place.images.append(image)
    walk.run(root)
    sizes: dict[bytes, int] = defaultdict(int)
    holders: dict[bytes, int] = defaultdict(int)
    for (path, _), size in walk.hidden.items():
        sizes[path] += size
        holders[path] += 1
    file_bytes = {diff_id: sum(layer.sizes) for diff_id, layer in layers.items()}
    rows = []
    for image, waste in walk.image_waste:
        total = sum(file_bytes.get(layer.diff_id, 0) for layer in image.layers if layer.diff_id is not None)
        if waste:
            rows.append(
                {
                    "bytes": waste,
                    "image": image.title,
                    "image_id": str(image.image_id),
                    "file_bytes": total,
                    "efficiency": round(1 - waste / total, 4) if total else 1.0,
                }
            )
    return Waste(
        total=sum(walk.hidden.values()),
        files=[
            {"bytes": sizes[path], "path": "/" + path.decode("utf-8", "replace"), "layers": holders[path]}
            for path in sorted(sizes, key=lambda path: (-sizes[path], path))
        ],
        images=sorted(rows, key=lambda row: (-row["bytes"], row["image"], row["image_id"])),
    )


class _Walk:
    def __init__(self, layers: Mapping[DiffID, ScannedLayer], path_of: Mapping[int, bytes]) -> None:
        self._layers = layers
        self._path_of = path_of
        self._root = _Node(0, None, {})
        self.hidden: dict[tuple[bytes, DiffID], int] = {}
        self.image_waste: list[tuple[ReportImage, int]] = []

    def run(self, root: _Place) -> None:
        """Walks down and up the tree, without recursion, since a chain may have thousands of layers."""
        waste = 0
        stack: list[tuple[_Place, _Undo | None, int]] = [(root, None, 0)]
        while stack:
            place, undo, own = stack.pop()
            if undo is not None:
                # On the way up: the file system is restored as it was before this layer.
                for children, name, old in reversed(undo):
                    if old is None:
                        children.pop(name, None)
                    else:
                        children[name] = old
                waste -= own
                continue
            undo = []
            own = 0
            for path, holder, size in self._apply(place.diff_id, undo):
                own += size
                self.hidden[path, holder] = size
            waste += own
            self.image_waste += [(image, waste) for image in place.images]
            stack.append((place, undo, own))
            stack += [(place.children[key], None, 0) for key in sorted(place.children)]

    def _apply(self, diff_id: DiffID | None, undo: _Undo) -> Iterator[_Hidden]:
        layer = None if diff_id is None else self._layers.get(diff_id)
        if layer is None or diff_id is None:
            return
        present: bytes | None = None
        parent: dict[bytes, _Node] = {}
        for number, content, size in zip(layer.paths, layer.contents, layer.sizes, strict=True):
            path = self._path_of[number]
            if not path:
                continue
            directory, _, name = path.rpartition(b"/")
            # Entries of one directory follow each other, and none of them can replace the directory itself.
            if directory != present:
                parent, present = self._directory(directory, undo), directory
            if name == _OPAQUE:
                # An opaque directory hides the files of lower layers, and not those of this layer.
                for child in list(parent):
                    if parent[child].layer != diff_id:
                        yield from self._remove(parent, child, directory, diff_id, undo)
            elif name.startswith(_AUFS):
                continue
            elif name.startswith(_WHITEOUT):
                name = name[len(_WHITEOUT) :]
                yield from self._remove(parent, name, directory, diff_id, undo)
            else:
                is_directory = content == DIRECTORY_CONTENT
                old = parent.get(name)
                if old is not None and not (is_directory and old.children is not None):
                    yield from _hidden_below(old, path, diff_id)
                undo.append((parent, name, old))
                kept = old.children if old is not None else None
                parent[name] = _Node(size, diff_id, (kept if kept is not None else {}) if is_directory else None)

    def _directory(self, path: bytes, undo: _Undo) -> dict[bytes, _Node]:
        children = self._root.children
        assert children is not None
        for part in path.split(b"/") if path else ():
            node = children.get(part)
            if node is None or node.children is None:
                undo.append((children, part, node))
                node = children[part] = _Node(0, None, {})
            children = node.children
            assert children is not None
        return children

    def _remove(
        self, parent: dict[bytes, _Node], name: bytes, directory: bytes, diff_id: DiffID, undo: _Undo
    ) -> Iterator[_Hidden]:
        old = parent.get(name)
        if old is not None and old.layer != diff_id:
            yield from _hidden_below(old, _join(directory, name), diff_id)
            undo.append((parent, name, old))
            del parent[name]


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _hidden_below(node: _Node, path: bytes, by: DiffID) -> Iterator[_Hidden]:
    """The node and all below it, without the files of the hiding layer itself."""
    pending = [(node, path)]
    while pending:
        node, path = pending.pop()
        if node.size and node.layer is not None and node.layer != by:
            yield path, node.layer, node.size
        pending += [(child, _join(path, name)) for name, child in (node.children or {}).items()]
