"""requirements/ci.lock: every dependency of CI, pinned and hashed, for repeatable runs and for bills of materials."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def wanted() -> dict[str, Requirement]:
    """What the extra `dev` asks for, extras of our own followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    pending = [*project["dependencies"], *extras["dev"]]
    found: dict[str, Requirement] = {}
    while pending:
        requirement = Requirement(pending.pop())
        if requirement.name == project["name"]:
            pending += [one for extra in requirement.extras for one in extras[extra]]
        else:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def locked() -> dict[str, str]:
    text = (ROOT / "requirements" / "ci.lock").read_text()
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.M)}


def test_everything_is_locked_at_a_version_that_will_do() -> None:
    versions = locked()
    for name, requirement in wanted().items():
        assert name in versions, f"{name} is not locked: make requirements/ci.lock anew, as its first lines say"
        assert requirement.specifier.contains(versions[name], prereleases=True), name


def test_every_pin_has_a_hash() -> None:
    text = (ROOT / "requirements" / "ci.lock").read_text()
    pins = re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]
    assert pins
    assert all("--hash=sha256:" in pin for pin in pins)
