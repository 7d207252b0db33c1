"""`--containers`, `--container` and `inspect` on the command line."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from migrate.cli.run_commands import quote
from tests.command import migrate
from tests.stores import StoreShelf, stores
from tests.unit.readers.test_containers import WEB, Root

__all__ = ["stores"]


def report_of(target: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((target / "migration-report.json").read_bytes())
    return document


def names_of(target: Path) -> list[str]:
    return sorted(name for row in report_of(target)["images"] for name in row["names"])


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path / "root")
    root.tag({"app": {"1.0": "base"}})
    root.container(Name="/Web.Front")
    return root


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["app:1.0"]),
        (["--containers"], ["app:1.0", "container/web.front:latest"]),
        (["--container", "Web.Front"], ["container/web.front:latest"]),
        (["--container", "/Web.Front"], ["container/web.front:latest"]),
        (["--container", WEB], ["container/web.front:latest"]),
        (["--container", WEB[:6]], ["container/web.front:latest"]),
        (["--container", WEB[:6], "--image", "app:1.0"], ["app:1.0", "container/web.front:latest"]),
        (["--containers", "--image", "app:1.0"], ["app:1.0", "container/web.front:latest"]),
        (["--containers", "--rename", "container/=old-"], ["app:1.0", "old-Web.Front:latest".lower()]),
    ],
)
def test_what_is_chosen(root: Root, tmp_path: Path, options: list[str], names: list[str]) -> None:
    done = migrate("convert", root.path, tmp_path / "out", *options)
    assert done.code == 0, done.err
    assert names_of(tmp_path / "out") == names
    assert migrate("verify", tmp_path / "out").code == 0


def test_a_container_that_is_not_there_is_a_usage_error(root: Root, tmp_path: Path) -> None:
    commands: list[list[str | Path]] = [
        ["convert", root.path, tmp_path / "out"],
        ["plan", root.path],
        ["inspect", root.path],
    ]
    for command in commands:
        done = migrate(*command, "--container", "nobody")
        assert done.code == 2
        assert "no container matches --container nobody" in done.err


def test_the_beginning_of_several_ids_is_a_usage_error(root: Root, tmp_path: Path) -> None:
    from migrate.model.legacy import LegacyID

    root.container(LegacyID(WEB[:4] + "0" * 60), Name="/second")
    done = migrate("convert", root.path, tmp_path / "out", "--container", WEB[:4])
    assert done.code == 2
    assert "several IDs" in done.err


def test_every_way_of_converting_gives_the_same(stores: StoreShelf, tmp_path: Path) -> None:
    store = stores.path("containers-1.9.1-overlay")
    rows = []
    for number, words in enumerate((["convert", "-j", "1"], ["convert", "-j", "4"], ["batch", "-j", "2"])):
        target = tmp_path / str(number)
        assert migrate(*words, store, target, "--containers").code == 3  # one container's image is gone
        document = report_of(target)
        rows.append([document["images"], document["containers"], document["failures"], document["warnings"]])
    assert rows[0] == rows[1] == rows[2]
    planned = tmp_path / "plan.json"
    assert migrate("plan", store, "--containers", "--report", planned, "--exact-sizes").code == 3
    plan = json.loads(planned.read_bytes())
    assert [row["image_id"] for row in plan["images"]] == [row["image_id"] for row in rows[0][0]]
    assert plan["containers"] == rows[0][1]


def test_batch_lists_what_it_left_behind(stores: StoreShelf, tmp_path: Path) -> None:
    store = stores.path("containers-1.9.1-vfs")
    assert migrate("convert", store, tmp_path / "one").code == 0
    assert migrate("batch", store, tmp_path / "two").code == 0
    one, two = report_of(tmp_path / "one"), report_of(tmp_path / "two")
    assert one["containers"] == two["containers"] != []
    assert one["warnings"] == two["warnings"]


def test_the_html_page_has_them(stores: StoreShelf, tmp_path: Path) -> None:
    store = stores.path("containers-1.9.1-vfs")
    assert migrate("convert", store, tmp_path / "out", "--html", tmp_path / "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    assert 'id="containers"' in page
    assert '"name":"porter"' in page
    again = migrate("report", tmp_path / "out", "--json")
    assert json.loads(again.out)["containers"] == report_of(tmp_path / "out")["containers"]


def test_inspect_lists_containers_and_volumes(stores: StoreShelf) -> None:
    store = stores.path("containers-1.6.2-vfs")
    text = migrate("inspect", store).out
    assert "porter, exited" in text
    assert "volume /data:" in text
    assert "bind /host: /srv/made-up/share" in text

    document = json.loads(migrate("inspect", store, "--json").out)
    porter = next(row for row in document["containers"] if row["name"] == "porter")
    assert porter["reference"] == "container/porter:latest"
    assert porter["changed_bytes"] == 4
    assert porter["run"][:5] == ["docker", "run", "--detach", "--name", "porter"]
    assert not any("container/porter:latest" in row["references"] for row in document["images"])
    document = json.loads(migrate("inspect", store, "--json", "--containers").out)
    assert any("container/porter:latest" in row["references"] for row in document["images"])


@pytest.mark.parametrize("name", ["containers-0.11.1-vfs", "containers-1.6.2-overlay", "containers-1.9.1-btrfs"])
def test_run_commands_repeat_the_old_options(name: str, stores: StoreShelf) -> None:
    done = migrate("inspect", stores.path(name), "--container", "porter", "--run-commands")
    assert done.code == 0
    words = shlex.split(next(line for line in done.out.splitlines() if line.startswith("docker run")))
    options = " ".join(words)
    for wanted in (
        "--name porter",
        "--hostname porter-host",
        "--user 1001:1001",
        "--workdir /work/here",
        "--memory 67108864",
        "--env STAGE=container",
        "--env EXTRA=a b=c",
        "--publish 127.0.0.1:18080:80/tcp",
        "--expose 9000/udp",
        "--volume porter-data:/data",
        "--volume porter-vol:/vol",
        "--volume /srv/made-up/share:/host:ro",
        "--entrypoint /bin/run container/porter:latest put /tmp/by-user user",
    ):
        assert wanted in options, wanted
    assert "docker volume create porter-data" in done.out
    copied = next(line for line in done.out.splitlines() if line.startswith("cp -a -- ") and "porter-data" in line)
    assert Path(shlex.split(copied)[3]).is_dir()


@pytest.mark.parametrize(
    "word",
    [
        "", "plain", "two words", "it's", "$(reboot)", "`reboot`", "a\nb", "\x1b[2J", "\\", "'\x07'", "é☃", "\u202egnp",
        "-x", "!", "a;b", "tab\there", "\udce9",
    ],
)  # fmt: skip
def test_bash_reads_back_every_word(word: str) -> None:
    done = subprocess.run(["bash", "-c", f"printf %s {quote(word)}"], capture_output=True, check=True)
    assert done.stdout == word.encode("utf-8", "surrogateescape")
    assert not set(quote(word)) & {"\x1b", "\x07", "\u202e", "\udce9"}


def test_a_record_cannot_break_out_of_the_script(root: Root) -> None:
    evil = "x\nreboot;'$(reboot)'"
    root.record(
        Name=f"/{evil}", Config={"Cmd": [evil], "Env": [f"A={evil}"], "Image": evil}, Volumes={f"/{evil}": evil}
    )
    done = migrate("inspect", root.path, "--containers", "--run-commands")
    assert done.code == 0, done.err
    docker = 'docker() { printf "%s\\0" "$@" >> calls; }\ncp() { :; }\nreboot() { echo REBOOTED; }\n'
    ran = subprocess.run(["bash", "-c", docker + done.out], capture_output=True, text=True, check=True, cwd=root.path)
    assert "REBOOTED" not in ran.stdout
    calls = (root.path / "calls").read_text().split("\0")
    assert evil in calls
    assert f"A={evil}" in calls
