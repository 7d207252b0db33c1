"""What no reader would take again is refused before it is written."""

from __future__ import annotations

import json
from pathlib import Path

from migrate.blobio.limits import JSON_BYTES, JSON_ITEMS
from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.readers.detect import open_source
from migrate.verify import verify
from migrate.writers.oci_layout import OciLayout
from tests.archives import V1Archive, layer_json, layer_tar, legacy_id

OPTIONS = ConvertOptions()


def add(made: V1Archive, name: str, parent: str | None = None, **fields: object) -> str:
    parent_id = None if parent is None else legacy_id(parent)
    return made.layer(name, parent, tar=layer_tar(name), raw=layer_json(legacy_id(name), parent_id, **fields))


def test_a_config_or_its_values_over_the_limits_fail_one_image(tmp_path: Path) -> None:
    """Each document of the chain is within them, and what is made of two is not."""
    made = V1Archive()
    text = "x" * (JSON_BYTES * 6 // 10)
    add(made, "long1", comment=text)
    made.tag("long", "1", add(made, "long2", "long1", comment=text))
    add(made, "many1")
    volumes: dict[str, dict[str, str]] = {f"/{number}": {} for number in range(JSON_ITEMS // 2 - 30)}
    made.tag("many", "1", add(made, "many2", "many1", config={"Volumes": volumes}))
    made.tag("good", "1", add(made, "good1"))
    (tmp_path / "a.tar").write_bytes(made.build())
    opened = OpenedSource("a.tar", open_source(str(tmp_path / "a.tar")))
    target = OciLayout(tmp_path / "out", OPTIONS)
    outcome = Conversion(sources=[opened], options=OPTIONS, target=target).run()
    target.close()
    assert outcome.exit_code == 3
    assert {str(failure.references[0]): failure.error for failure in outcome.report.failures}["long:1"] == "limit"
    index = json.loads((tmp_path / "out/index.json").read_bytes())
    names = {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]}
    assert "good:1" in names and "long:1" not in names
    assert verify(str(tmp_path / "out"), 1, SilentProgress()) == []
