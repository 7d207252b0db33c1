"""Layer tars that two readers would understand differently: converted byte for byte, and flagged in every report."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.archives import V1Archive, layer_tar, legacy_id
from tests.command import migrate


def entry(name: str, content: bytes = b"content\n", kind: bytes = tarfile.REGTYPE) -> bytes:
    """Header and content, without the end of an archive."""
    buffer = io.BytesIO()
    member = tarfile.TarInfo(name)
    member.size, member.type = len(content), kind
    buffer.write(member.tobuf(tarfile.USTAR_FORMAT))
    buffer.write(content + bytes(-len(content) % 512))
    return buffer.getvalue()


END = bytes(1024)
CASES = {
    "conflicting-sizes": entry("pax", b"16 size=0000008\n", tarfile.XHDTYPE) + entry("a", b"c" * 700)[:1024] + END,
    "size-without-content": entry("link", kind=tarfile.SYMTYPE)[:512] + END,
    "bytes-after-end": entry("a") + END + b"more",
    "path-forms": entry("a") + entry("./a") + END,
    "entries-docker-refuses": entry("a", kind=tarfile.CONTTYPE) + END,
}


@pytest.mark.parametrize("flag", CASES)
def test_flagged_and_unchanged(flag: str, tmp_path: Path) -> None:
    archive = V1Archive()
    archive.tag("plain", "1", archive.layer("plain", tar=layer_tar("a")))
    archive.tag("odd", "1", archive.layer("odd", "plain", tar=CASES[flag]))
    source, target = tmp_path / "archive.tar", tmp_path / "out"
    source.write_bytes(archive.build())
    result = migrate("convert", "--html", tmp_path / "page.html", source, target)
    assert result.code == 0, result.err
    said = " ".join(result.out.split())  # lines are wrapped
    # two forms of one path are two entries of it, too, at which Docker stops
    flags = ["entries-docker-refuses", "path-forms"] if flag == "path-forms" else [flag]
    assert f"readers may understand its tar differently ({flags[0]}" in said
    report = json.loads((target / "migration-report.json").read_bytes())
    layers = {layer["legacy_id"]: layer for image in report["images"] for layer in image["layers"]}
    assert layers[legacy_id("odd")]["flags"] == flags
    assert layers[legacy_id("odd")]["diff_id"] == f"sha256:{hashlib.sha256(CASES[flag]).hexdigest()}"
    assert "flags" not in layers[legacy_id("plain")]
    assert flag in (tmp_path / "page.html").read_text()
    assert migrate("verify", "-q", target).code == 0
