"""Slips of the hand and habits from other programs: command, exit code, beginning of the first line of the answer.

`A` is an archive with the images team/web:1.0 and app:2, `L` a layout made of it, `D` an empty directory, `T` a text.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.archives import V1Archive
from tests.command import migrate

TARGET_FORMS = r"\(oci, oci-archive, docker-archive, registry-storage, docker://\)"
SLIPS: list[tuple[str, int, str]] = [
    # commands and options
    ("conver A out", 2, r"no such command 'conver'. Did you mean 'convert'\? See `migrate --help`"),
    ("instpect A", 2, "no such command 'instpect'. Did you mean 'inspect'?"),
    ("verfy L", 2, "no such command 'verfy'. Did you mean 'verify'?"),
    ("pusch L docker://h", 2, "no such command 'pusch'. Did you mean 'push'?"),
    ("reprot L", 2, "no such command 'reprot'. Did you mean 'report'?"),
    ("bacth A out", 2, "no such command 'bacth'. Did you mean 'batch'?"),
    ("shwo L", 2, "no such command 'shwo'. Did you mean 'show'?"),
    ("frobnicate", 2, "no such command 'frobnicate'; see `migrate --help`"),
    ("--verison", 2, "no such option '?--verison'?. Did you mean '?--version'?"),
    ("convert --imge app A out", 2, "no such option '?--imge'?.*--image.*`migrate convert --help`"),
    ("convert --fromat oci A out", 2, "no such option '?--fromat'?.*--format"),
    ("convert --compresion zstd A out", 2, "no such option '?--compresion'?.*--compression"),
    ("convert --dryrun A out", 2, "no such option '?--dryrun'?.*--dry-run"),
    ("plan --htlm x A", 2, "no such option '?--htlm'?.*--html"),
    ("inspect --jsn A", 2, "no such option '?--jsn'?.*--json"),
    ("verify --job 2 L", 2, "no such option '?--job'?.*--jobs"),
    ("convert -x A out", 2, "no such option '?-x'?; see `migrate convert --help`"),
    # missing arguments
    ("convert", 2, "missing argument 'TARGET'; see `migrate convert --help`"),
    ("convert A", 2, "name the sources before the TARGET"),
    ("plan", 2, "missing argument 'SOURCE...'"),
    ("inspect", 2, "missing argument 'SOURCE'"),
    ("verify", 2, "missing argument"),
    ("push", 2, "missing argument"),
    ("push L", 2, "missing argument 'docker://HOST"),
    ("report", 2, "missing argument"),
    ("show", 2, "missing argument"),
    ("map", 2, "missing argument"),
    ("batch", 2, "missing argument"),
    ("batch A", 2, "name the sources before the TARGET"),
    ("inspect A A", 2, "got unexpected extra argument"),
    # values
    ("convert --format dockr A out", 2, "invalid value for '--format': 'dockr' is not one of 'docker', 'oci'"),
    ("convert --format OCI A out", 2, "invalid value for '--format'"),
    ("convert --compression zstd A out", 2, "--compression zstd needs --format oci"),
    ("convert --compression gz A out", 2, "invalid value for '--compression': 'gz' is not one of"),
    ("convert --compression-level 99 A out", 2, "--compression-level 99: --compression gzip takes 1 to 12"),
    ("convert --compression-level x A out", 2, "invalid value for '--compression-level': 'x' is not a valid integer"),
    ("convert --compression none --compression-level 1 A out", 2, "--compression-level 1: .* has no levels"),
    ("convert --compression gzip-fast --compression-level 0 A out", 2, ".*takes 1 to 3"),
    ("convert --empty-layers no A out", 2, "invalid value for '--empty-layers'"),
    ("convert --on-conflict last A out", 2, "invalid value for '--on-conflict'"),
    ("convert --platform arm64 A out", 2, "invalid value for '--platform': 'arm64' is not OS/ARCH"),
    ("convert --platform linux/arm/v7/x A out", 2, "invalid value for '--platform'"),
    ("convert --jobs 0 A out", 2, "invalid value for '--jobs'"),
    ("convert --jobs all A out", 2, "invalid value for '--jobs'"),
    ("convert --link soft A out", 2, "invalid value for '--link'"),
    ("convert --progress loud A out", 2, "invalid value for '--progress'"),
    ("convert --source-type tar A out", 2, "invalid value for '--source-type'"),
    ("convert --source-type docker-root A out", 4, "A: holds no source of type docker-root"),
    ("convert --max-ratio 0 A out", 2, "invalid value for '--max-ratio'"),
    ("convert --driver overlay2 A out", 0, ""),
    ("convert --rename app A out", 2, "invalid value for '--rename': 'app' is not PATTERN=REPLACEMENT"),
    ("convert --rename (=x A out", 2, "--rename \\(=x: "),
    (r"convert --rename 'a=\1' A out", 2, "--rename "),
    ("convert --tag-template {rep} A out", 2, "--tag-template {rep}: fields are {repo}, {tag}"),
    ("convert --tag-template {created:%Q} A out", 2, "--tag-template .*: %Q is none of"),
    ("plan --tag-template {repo A", 2, "--tag-template"),
    ("batch --tag-template {repo A out", 2, "--tag-template"),
    # choosing images
    ("convert --image nothing A out", 2, "no image matches --image nothing; `migrate inspect SOURCE` lists"),
    ("convert --image team/web A out", 0, ""),
    ("convert --image web A out", 2, "no image matches --image web"),
    ("convert --image team/web:2 A out", 2, "no image matches --image team/web:2"),
    ("convert --image 'team/*' A out", 0, ""),
    ("convert --exclude 'team/*' A out", 0, ""),
    ("push --image nothing L docker://127.0.0.1:1", 2, "no image of L matches --image nothing"),
    # sources
    ("convert nothing.tar out", 4, "nothing.tar: there is no such file or directory$"),
    ("convert busybox out", 4, "busybox: .*if it is the name of an image: `docker save busybox "),
    ("convert team/web:1.0 out", 4, "team/web:1.0: there is no such file .*docker save team/web:1.0"),
    ("plan ubuntu:14.04", 4, "ubuntu:14.04: there is no such file .*docker save ubuntu:14.04"),
    ("inspect busybox:latest", 4, "busybox:latest: .*docker save busybox:latest"),
    ("convert A:app:2 out", 4, "A:app:2: .*images are chosen by --image: write A --image app:2"),
    ("convert docker-archive:A:app:2 out", 4, "A:app:2: .*write A --image app:2"),
    (r"convert 'C:\images\a.tar' out", 4, r"C:\\images\\a.tar: .*a Windows path; inside WSL it is /mnt/c/"),
    ("inspect D", 4, "D: neither an unpacked `docker save` archive"),
    ("convert D out", 4, "D: neither an unpacked"),
    ("convert T out", 4, "T: is neither a tar archive, plain or compressed"),
    ("inspect T", 4, "T: is neither a tar archive"),
    ("convert docker-archive:A out", 0, ""),
    ("convert oci:L out", 0, ""),
    ("inspect oci:L", 0, ""),
    ("inspect docker-archive:D", 4, "D: holds no image"),
    ("inspect registry-storage:D", 4, "D: "),
    ("plan docker-archive:nothing.tar", 4, "nothing.tar: there is no such file"),
    ("inspect ftp://host/a.tar", 4, "ftp://host/a.tar: "),
    ("convert - - out", 2, "standard input can be read only once"),
    # targets
    (
        "convert A out.tar",
        2,
        "target 'out.tar': a plain path is the directory of an OCI layout.*docker-archive:out.tar",
    ),
    ("convert A new/out.tar.gz", 2, "target 'new/out.tar.gz': a plain path is the directory"),
    ("convert A out.tgz", 2, "target 'out.tgz': a plain path is the directory"),
    ("convert out A", 2, "out does not exist and A does: the sources come first, then the TARGET"),
    ("convert A docker-archive:x.tar:app:2", 2, ".* a target takes no image name.*write docker-archive:x.tar$"),
    ("convert A oci-archive:x.tar:app", 2, ".* a target takes no image name.*write oci-archive:x.tar$"),
    ("convert A oci:new:2", 2, ".* a target takes no image name.*: write oci:new$"),
    ("convert --dry-run A oci:new:2", 2, ".* a target takes no image name"),
    ("batch A oci:new:2", 2, ".* a target takes no image name"),
    ("convert A docker-archve:x.tar", 2, f".*docker-archve: is not a kind of target {TARGET_FORMS}; did you mean"),
    ("convert A dir:new", 2, f".*dir: is not a kind of target {TARGET_FORMS}"),
    ("convert A docker-daemon:app:2", 2, ".*docker-daemon: is not a kind of target"),
    ("convert A containers-storage:app", 2, ".*containers-storage: is not a kind of target"),
    ("convert A app:2", 2, ".*app: is not a kind of target.*; a directory of that name is ./app:2"),
    ("convert A ./app:2", 0, ""),
    ("convert A out.tar/", 0, ""),
    (r"convert A 'D:\new'", 2, r".*a Windows path; inside WSL it is /mnt/d/new"),
    ("convert A oci:", 2, "target 'oci:': no path follows the prefix"),
    ("convert A ''", 2, "target '': name a directory"),
    ("convert A -", 2, "target '-': name a directory, or docker-archive:- for standard output"),
    ("convert A docker://", 2, "target docker://: name a host"),
    ("convert A A", 2, "target 'A'|the target A is the source A"),
    ("convert L L", 2, "the target L is the source L"),
    ("convert A T", 5, ""),
    # outputs
    ("convert --report new/r.json A out", 2, "--report new/r.json: there is no directory new"),
    ("convert --html new/r.html A out", 2, "--html new/r.html: there is no directory new"),
    ("convert --report T A out", 2, "--report T: this file exists and was not written by that option"),
    ("convert --report A A out", 2, ""),
    ("plan --report x --html x A", 2, ""),
    ("plan --report - --html - A", 2, ""),
    # other commands
    ("verify nothing", 4, "nothing: "),
    ("verify D", 4, "D: nothing to verify: it is empty"),
    ("verify T", 4, ""),
    ("report nothing", 4, "nothing: "),
    ("report D", 4, "D: holds no migration-report.json"),
    ("report T", 3, ""),
    ("push D docker://127.0.0.1:1", 4, "D: not an OCI image layout"),
    ("push A docker://127.0.0.1:1", 4, "A: not an OCI image layout"),
    ("push L 127.0.0.1:1", 2, "target '127.0.0.1:1': push writes to docker://HOST"),
    ("push oci:L 127.0.0.1:1", 2, "target '127.0.0.1:1': push writes to docker://HOST"),
    ("push oci:L docker://", 2, "target docker://: name a host"),
    ("show L nothing:1", 2, ""),
    ("map L 0123", 2, "no image or layer 0123"),
    ("inspect --tree --json A", 2, "--tree and --json exclude each other"),
    ("batch --json A out", 2, "--json goes with --status"),
    ("batch --status A out", 2, "--status takes the TARGET and no sources"),
    ("batch --shard 9/2 A out", 2, ""),
    ("batch --from-file nothing out", 2, "--from-file nothing: No such file or directory"),
    ("batch A docker-archive:x.tar", 2, "target docker-archive:x.tar: batch writes an OCI layout"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    archive = V1Archive()
    archive.tag("team/web", "1.0", archive.layer("web"))
    archive.tag("app", "2", archive.layer("app"))
    (place / "A").write_bytes(archive.build())
    assert migrate("convert", "A", "L", cwd=place).code == 0
    return place


@pytest.mark.parametrize(("line", "code", "first"), SLIPS, ids=[line for line, _, _ in SLIPS])
def test_the_answer(line: str, code: int, first: str, made: Path, tmp_path: Path) -> None:
    for name in ("A", "L"):
        (tmp_path / name).symlink_to(made / name)
    (tmp_path / "D").mkdir()
    (tmp_path / "T").write_text("only text\n")
    done = migrate(*shlex.split(line), cwd=tmp_path)
    assert done.code == code, done.err
    if code == 0:
        return
    assert done.errors, done.err
    assert re.match(first, done.errors[0].removeprefix("migrate: error: ")), done.errors[0]
    left = {path.name for path in tmp_path.iterdir()} - {"A", "L", "D", "T"}
    assert not left, f"a refused command made {left}"
