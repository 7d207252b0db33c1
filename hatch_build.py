"""Build step: the man pages of the wheel, made from the commands themselves (tools/manual.py)."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualPages(BuildHookInterface):  # type: ignore[type-arg]
    """Puts man1 pages into the wheel's shared data, where pip, pipx and distribution packages look for them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version
        if self.target_name != "wheel":
            return
        sys.path.insert(0, self.root)
        try:
            from tools.manual import write_pages
        finally:
            sys.path.remove(self.root)
        self._directory = Path(tempfile.mkdtemp(prefix="migrate-man-"))
        write_pages(self._directory)
        for page in sorted(self._directory.glob("*.1")):
            build_data["shared_data"][str(page)] = f"share/man/man1/{page.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        del version, build_data, artifact_path
        directory: Path | None = getattr(self, "_directory", None)
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
