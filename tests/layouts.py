"""OCI layouts that a test fills by hand: any names, any nesting, damage too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from migrate.layout.view import LayoutView
from migrate.model.digest import Digest

OCI = "application/vnd.oci.image"


class Layout:
    """An OCI layout that a test fills by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs" / "sha256").mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, content: bytes | dict[str, Any]) -> dict[str, Any]:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        digest = Digest.of(raw)
        (self.root / "blobs" / "sha256" / digest.hex).write_bytes(raw)
        return {"digest": str(digest), "size": len(raw)}

    def image(self, layer: bytes, architecture: str = "amd64") -> dict[str, Any]:
        config = {
            "os": "linux",
            "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))]},
        }
        manifest = {
            "schemaVersion": 2,
            "config": {"mediaType": f"{OCI}.config.v1+json", **self.blob(config)},
            "layers": [{"mediaType": f"{OCI}.layer.v1.tar", **self.blob(layer)}],
        }
        platform = {"os": "linux", "architecture": architecture}
        return {"mediaType": f"{OCI}.manifest.v1+json", **self.blob(manifest), "platform": platform}

    def index(self, *entries: dict[str, Any]) -> dict[str, Any]:
        return {"mediaType": f"{OCI}.index.v1+json", **self.blob({"schemaVersion": 2, "manifests": list(entries)})}

    def write_index(self, *entries: dict[str, Any]) -> LayoutView:
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": list(entries)}))
        return LayoutView(str(self.root))


def named(entry: dict[str, Any], name: str) -> dict[str, Any]:
    return {**entry, "annotations": {"org.opencontainers.image.ref.name": name}}


def named_by_docker(entry: dict[str, Any], full: str) -> dict[str, Any]:
    """As Docker 25 and later and containerd name an image: the tag alone, and the whole name."""
    annotations = {"io.containerd.image.name": full, "org.opencontainers.image.ref.name": full.rpartition(":")[2]}
    return {**entry, "annotations": annotations}
