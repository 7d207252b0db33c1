"""Slips of the hand and habits from other programs: command, exit code, beginning of the first line of the answer.

`A` is an archive with the images team/web:1.0 and app:2, `L` a layout made of it, `D` an empty directory, `E` an empty
file, `T` a text, `R` an empty Docker root.
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
    ("plan 0123456789ab", 4, "0123456789ab: .*of a container: `docker commit 0123456789ab NAME`"),
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
    ("report T", 4, "T: not a report"),
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
    ("batch A --status", 2, "--status takes the TARGET and no sources|A: no journal"),
    ("batch --status A", 2, "A: no journal of a batch there"),
    ("push L docker://user:pw@h/x", 2, "docker://h: no user name and password go into it: run `docker login h` first"),
    ("map L team/web@sha256:00", 2, "no image or layer team/web@sha256:00. Did you mean team/web:1.0.$"),
    ("export L team/web:1.0 ../etc", 3, "an entry is named '../etc', out of the image"),
    ("convert A out --jobs", 2, "option '--jobs' requires an argument"),
    ("convert A,L out", 4, "A,L: there is no such file or directory"),
    # more commands, and habits of other programs
    ("help", 2, "no such command 'help': use `migrate --help`, or `migrate COMMAND --help`"),
    ("help convert", 2, "no such command 'help': use `migrate --help`, or `migrate COMMAND --help`"),
    ("version", 2, "no such command 'version': use `migrate --version`"),
    ("load A", 2, "no such command 'load': use `migrate convert SOURCE TARGET`"),
    ("save app", 2, "no such command 'save': use `migrate convert SOURCE TARGET`"),
    ("import A out", 2, "no such command 'import': use `migrate convert SOURCE TARGET`"),
    ("export L", 2, "missing argument 'REF'; see `migrate export --help`"),
    ("export L app", 2, r"L: no image app. Did you mean app:2\?"),
    ("export L app:3 -o x.tar", 2, r"L: no image app:3. Did you mean app:2\?"),
    ("export L app:2 nothing", 2, "the image has no nothing"),
    ("export A app:2 -o x.tar", 0, ""),
    ("export L app:2 -o D", 2, "--output D: is a directory; name a file, or pipe the tar into `tar -x -C D`"),
    ("export L app:2 -o no/x.tar", 5, "no/x.tar: cannot be written: No such file or directory"),
    ("find L", 2, "missing argument 'NAME'; see `migrate find --help`"),
    ("find L nothing", 2, r"L: no image has or had the name nothing \(`migrate map LAYOUT` lists all\)"),
    ("find L app --as-of yesterday", 2, "--as-of yesterday: not a date; write 2014-03-01 or 2014-03-01T12:00:00Z"),
    ("find L app --as-of 2015", 2, "--as-of 2015: not a date; write 2014-03-01 or 2014-03-01T12:00:00Z"),
    ("find L app --as-of 2015-13-01", 2, "--as-of 2015-13-01: not a date; write 2014-03-01 or 2014-03-01T12:00:00Z"),
    ("find nothing app", 4, "nothing: No such file or directory"),
    ("find A app", 4, "A: not a report. Archives hold none: give --report FILE when you convert, then"),
    ("gc", 2, "missing argument 'LAYOUT'; see `migrate gc --help`"),
    ("gc A", 2, "A: a layout in an archive stays as it is; convert it again without some"),
    ("gc D", 4, "D: not an OCI image layout: it has no oci-layout file"),
    ("gc nothing", 4, "nothing: No such file or directory"),
    ("gc T", 4, "T: not a tar archive"),
    ("gc L --dryrun", 2, r"no such option '--dryrun'. Did you mean '--dry-run'\? See `migrate gc --help`"),
    ("map A", 4, "A: not a report. Archives hold none: give --report FILE when you convert, then"),
    ("map D", 4, "D: holds no migration-report.json. Name the target of a finished `migrate conv"),
    ("map nothing", 4, "nothing: No such file or directory"),
    ("map L app", 2, r"no image or layer app. Did you mean app:2\?"),
    ("map L ap", 2, r"no image or layer ap. Did you mean app:2\?"),
    ("map L --from nothing", 2, "--from nothing: No such file or directory"),
    ("map L --rewrite", 2, "--rewrite: name the files whose image IDs and names are to be replaced"),
    ("map L --rewrite nothing.yml", 2, "nothing.yml: No such file or directory"),
    ("map L --rewrite D", 2, "D: Is a directory"),
    ("map L --in-place T", 2, "--in-place goes with --rewrite"),
    ("map L --rewrite --json T", 2, "--rewrite prints a diff: it goes without --json, --csv and --from"),
    ("map L --json --csv", 2, "--json and --csv exclude each other"),
    ("show A app:2", 0, ""),
    ("show A app:3", 2, "A: no image app:3; `migrate inspect` lists what is there"),
    ("show A app", 2, ".*no image app. Did you mean app:2"),
    ("export A nothing -o x.tar", 2, "A: no image nothing"),
    ("show R app", 4, "R: no OCI layout|R: graph/ holds no image"),
    ("show E app", 4, "E: "),
    ("show L app --layer 2", 2, "--layer goes with --files"),
    ("show L app --files --layer 9", 2, r"L: no image app. Did you mean app:2\?"),
    ("show L app --raw", 2, "--raw goes with --config or --manifest"),
    ("show L app --config --manifest", 2, "--config and --manifest exclude each other"),
    ("show L app --platform windows/amd64", 2, r"L: no image app. Did you mean app:2\?"),
    (
        "show L app --platform amd64",
        2,
        "invalid value for '--platform': 'amd64' is not OS/ARCH or OS/ARCH/VARIANT, suc",
    ),
    ("show D app", 4, "D: no OCI layout, no docker archive, and nothing else"),
    ("show nothing app", 4, "nothing: No such file or directory"),
    ("show T app", 4, "T: not a tar archive"),
    ("inspect nothing.tar", 4, "nothing.tar: there is no such file or directory"),
    ("inspect E", 4, "E: is empty"),
    ("convert E out", 4, "E: is empty"),
    ("plan E", 4, "E: is empty"),
    ("plan A out", 2, "out does not exist: plan takes sources alone, and no TARGET"),
    ("plan A --dry-run", 2, "no such option '--dry-run'; see `migrate plan --help`"),
    ("plan --exact A", 2, r"no such option '--exact'. \(Did you mean one of: '--exact-sizes', '--exclude'\?\)"),
    ("plan A --report x --html x", 2, "--report x and --html x both write to "),
    ("verify A", 4, r"A: no OCI layout, docker archive or registry storage of schema-2 images \(verif"),
    ("verify L --jobs 0", 2, "invalid value for '--jobs' / '-j': 0 is not in the range 1<=x<=1024; see `migr"),
    ("verify L L", 2, r"got unexpected extra argument \(L\); see `migrate verify --help`"),
    ("verify docker://h/x", 2, "docker://h/x: is not on this machine; copy it first"),
    ("verify s3://nothing/x", 2, "s3://nothing/x: is not on this machine; copy it first"),
    ("report A", 4, "A: not a report. Archives hold none: give --report FILE when you convert, then"),
    ("report L --json --html -", 2, "--json and --html - both write to standard output: give --html a file"),
    ("report L --savings -1", 2, "invalid value for '--savings': -1 is not in the range x>=0; see `migrate repor"),
    ("report L --verify", 2, "--verify goes with --html; `migrate verify LAYOUT` alone prints what it finds"),
    ("push L docker://h --image", 2, "option '--image' requires an argument"),
    ("push L docker://h/UPPER", 2, "target docker://h/UPPER: 'UPPER' is not the beginning of a repository's name"),
    ("push L docker://h:port/x", 2, r"docker://h:port: 'h:port' is no HOST\[:PORT\]"),
    ("push L docker://h:99999/x", 2, r"docker://h:99999: 'h:99999' is no HOST\[:PORT\]"),
    ("push L dockr://h", 2, r"target 'dockr://h': push writes to docker://HOST\[:PORT\]\[/PREFIX\] only"),
    ("push L docker:/h", 2, r"target 'docker:/h': push writes to docker://HOST\[:PORT\]\[/PREFIX\] only"),
    ("push L h:5000/x", 2, r"target 'h:5000/x': push writes to docker://HOST\[:PORT\]\[/PREFIX\] only"),
    ("push nothing docker://h", 4, "nothing: No such file or directory"),
    ("push T docker://h", 4, "T: not a tar archive"),
    ("batch out", 2, "name the sources before the TARGET, or give --from-file"),
    ("batch nothing out", 4, r"nothing: there is no such file or directory \(if it is the name of an image: `d"),
    ("batch D out", 4, "no image was read: there is no file to read"),
    ("batch T out", 4, "no image was read: 1 file, and no source among them"),
    ("batch E out", 4, "no image was read: 1 file, and no source among them"),
    ("batch A A", 2, "the target A is the source A or lies in it, and a source is never written to"),
    ("batch A T", 5, r"T: is a file; an OCI layout is a directory \(a file is written by oci-archive:F"),
    ("batch A out.tar", 2, "target 'out.tar': a plain path is the directory of an OCI layout, and this is "),
    ("batch --jobs 0 A out", 2, "invalid value for '--jobs' / '-j': 0 is not in the range 1<=x<=1024; see `migr"),
    (
        "batch --executor fork A out",
        2,
        "invalid value for '--executor': 'fork' is not one of 'processes', 'threads'; s",
    ),
    ("batch --shard 0/3 A out", 2, "--shard 0/3: write it as I/N with 1 <= I <= N, such as 3/8"),
    ("batch --shard 3 A out", 2, "--shard 3: write it as I/N with 1 <= I <= N, such as 3/8"),
    ("batch --shard a/b A out", 2, "--shard a/b: write it as I/N with 1 <= I <= N, such as 3/8"),
    ("batch --status nothing", 2, "nothing: no journal of a batch there"),
    ("batch --status D", 2, "D: no journal of a batch there"),
    ("batch --status L", 2, "L: no journal of a batch there"),
    ("batch --merge D", 2, "D: no journal of a batch there"),
    ("batch --merge --status L", 2, "--merge and --status: one at a time"),
    ("batch --from-file E out", 4, "no image was read: there is no file to read"),
    ("batch --account D A out", 2, "--account D: Is a directory"),
    ("batch --account no/x.csv A out", 2, "--account no/x.csv: there is no directory no"),
    (
        "batch --failed-list A A out",
        2,
        "--failed-list A: this file exists and was not written by that option; name ano",
    ),
    ("batch '*.tgz' out", 2, r"\*.tgz: nothing matches"),
    ("batch R out", 4, "R: graph/ holds no image"),
    ("batch out A", 2, "out does not exist and A does: the sources come first, then the TARGET"),
    ("ls A", 2, "no such command 'ls': use `migrate inspect SOURCE`, or `migrate map LAYOUT` fo"),
    ("images A", 2, "no such command 'images': use `migrate inspect SOURCE`, or `migrate map LAYOUT"),
    ("copy A out", 2, "no such command 'copy': use `migrate convert SOURCE TARGET`"),
    ("upload L docker://h", 2, "no such command 'upload': use `migrate push LAYOUT docker://HOST`"),
    ("check L", 2, "no such command 'check': use `migrate verify LAYOUT`"),
    ("prune L", 2, "no such command 'prune': use `migrate gc LAYOUT`"),
    ("search L app", 2, "no such command 'search': use `migrate find LAYOUT NAME`"),
    ("extract L app:2", 2, "no such command 'extract': use `migrate export LAYOUT REF`"),
    ("rewrite L T", 2, "no such command 'rewrite': use `migrate map LAYOUT --rewrite FILE...`"),
    ("dry-run A", 2, "no such command 'dry-run': use `migrate plan SOURCE`"),
    ("convert --exclude nothing A out", 0, ""),
    ("convert --exclude 'app:2' --exclude team/web A out", 2, "--exclude app:2, team/web leaves no image"),
    ("convert --exclude app A out", 0, ""),
    (
        "convert --image app --exclude app A out",
        2,
        "no image matches --image app; `migrate inspect SOURCE` lists what is there",
    ),
    ("convert --image 'app:*' A out", 0, ""),
    ("convert --image 'app:[12]' A out", 0, ""),
    (
        "convert --image 'TEAM/*' A out",
        2,
        r"no image matches --image TEAM/\*; `migrate inspect SOURCE` lists what is there",
    ),
    ("convert --image '' A out", 2, "no image matches --image ; `migrate inspect SOURCE` lists what is there"),
    (
        "convert --image app:2 --image nothing A out",
        2,
        "no image matches --image nothing; `migrate inspect SOURCE` lists what is there",
    ),
    ("convert --containers A out", 0, ""),
    (
        "convert --container abc A out",
        2,
        "no container matches --container abc; `migrate inspect SOURCE` lists what is t",
    ),
    ("convert --inside x A out", 4, "A: holds no source in x"),
    ("convert --inside var/lib/docker R out", 4, "R: --inside var/lib/docker: there is no such folder"),
    ("convert --salvage --strict A out", 0, ""),
    ("convert --name-untagged x A out", 0, ""),
    (
        "convert --name-untagged '{nope}:1' A out",
        2,
        r"--name-untagged \{nope\}:1: is NAME:TAG with the fields \{legacy_id\} and \{image_i",
    ),
    ("convert --dm-data nothing A out", 0, ""),
    ("convert --driver zfs R out", 4, "R: graph/ holds no image"),
    ("convert --jobs 99999 A out", 2, "invalid value for '--jobs' / '-j': 99999 is not in the range 1<=x<=1024; see `"),
    ("convert A s3:/bucket/x", 2, r"target 's3:/bucket/x': s3: is not a kind of target \(oci, oci-archive, docker-a"),
    ("convert A docker://host:port/x", 2, r"docker://host:port: 'host:port' is no HOST\[:PORT\]"),
    ("convert A oci-archive:D", 5, "D: is a directory; an archive is a file"),
    ("convert A docker-archive:T", 5, r"T: this file exists and was not written by migrate \(--force replaces it\)"),
    ("convert A docker-archive:", 2, "target 'docker-archive:': no path follows the prefix"),
    (
        "convert A registry-storage:T",
        5,
        r"T: is a file; a registry's storage is a directory \(a file is written by oci-ar",
    ),
    ("convert A registry-storage:", 2, "target 'registry-storage:': no path follows the prefix"),
    ("convert A L/oci-layout", 5, r"L/oci-layout: is a file; an OCI layout is a directory \(a file is written by oc"),
    ("convert A oci:T", 5, r"T: is a file; an OCI layout is a directory \(a file is written by oci-archive:F"),
    ("convert docker://h/UPPER out", 2, "source docker://h/UPPER: 'UPPER' is not a repository's name"),
    (
        "convert docker-daemon:app out",
        4,
        r"docker-daemon:app: there is no such file or directory \(images of a running eng",
    ),
    (
        "convert containers-storage:app out",
        4,
        r"containers-storage:app: there is no such file or directory \(images of a runnin",
    ),
    ("convert oci-archive:T out", 4, "T: is neither a tar archive, plain or compressed by gzip, bzip2, xz or zstd, n"),
    ("convert dir:D out", 4, "D: no folder with a manifest.json of a registry in it"),
    ("convert ./busybox out", 4, "./busybox: there is no such file or directory"),
    ("convert A.gz out", 4, "A.gz: there is no such file or directory"),
    (
        "convert sha256:0123456789abcdef out",
        4,
        r"sha256:0123456789abcdef: there is no such file or directory \(if it is the name",
    ),
    ("convert 0123456789ab out", 4, r"0123456789ab: there is no such file or directory \(if it is the name of an imag"),
    ("convert 'a b' out", 4, "a b: there is no such file or directory"),
    ("inspect --json T", 4, "T: is neither a tar archive, plain or compressed by gzip, bzip2, xz or zstd, n"),
    ("inspect --tree D", 4, r"D: neither an unpacked `docker save` archive \(manifest.json, or <id>/json besi"),
    ("inspect --run-commands A", 2, "--run-commands goes with --containers or --container"),
    ("inspect --containers A", 0, ""),
    ("inspect L/index.json", 4, "L/index.json: is neither a tar archive, plain or compressed by gzip, bzip2, xz"),
    ("inspect L/blobs", 4, r"L/blobs: neither an unpacked `docker save` archive \(manifest.json, or <id>/jso"),
    ("show L app:2 --files --layer 9", 2, "--layer 9: the image has 1 layer"),
    ("show L app:2 --platform windows/amd64", 2, "L: app:2 is there, but not for windows/amd64: for linux/amd64"),
    ("push --jobs 0 L docker://h", 2, "invalid value for '--jobs' / '-j': 0 is not in the range 1<=x<=1024; see `migr"),
    ("map L 0123456789abcdef", 2, "no image or layer 0123456789abcdef. `migrate map LAYOUT` lists all."),
    ("map L --rewrite T nothing", 2, "nothing: No such file or directory"),
    ("find L team", 2, r"L: no image has or had the name team \(`migrate map LAYOUT` lists all\)"),
    ("find L team/web:2", 2, r"L: no image has or had the name team/web:2 \(`migrate map LAYOUT` lists all\)"),
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
    (tmp_path / "E").write_bytes(b"")
    (tmp_path / "R" / "graph").mkdir(parents=True)
    (tmp_path / "R" / "repositories-aufs").write_text("{}")
    done = migrate(*shlex.split(line), cwd=tmp_path)
    assert done.code == code, done.err
    if code == 0:
        return
    assert done.errors, done.err
    assert re.match(first, done.errors[0].removeprefix("migrate: error: ")), done.errors[0]
    left = {path.name for path in tmp_path.iterdir()} - {"A", "L", "D", "T", "E", "R"}
    assert not left, f"a refused command made {left}"


@pytest.mark.parametrize("command", ["inspect", "plan", "convert"])
def test_what_a_user_may_not_read_is_counted(command: str, tmp_path: Path) -> None:
    """Of a directory, before anything is written; with the remedy."""
    for folder in (tmp_path.parent.parent, tmp_path.parent, tmp_path):
        folder.chmod(0o755)
    tmp_path.chmod(0o777)
    for number in range(3):
        image = tmp_path / "root" / "graph" / f"{number:064x}"
        image.mkdir(parents=True)
        (image / "json").write_text(f'{{"id": "{number:064x}"}}')
        image.chmod(0o700)
    (tmp_path / "root" / "repositories-vfs").write_text("{}")
    (tmp_path / "root" / "vfs" / "dir").mkdir(parents=True)
    done = migrate(command, "root", *(["out"] if command == "convert" else []), cwd=tmp_path, user=65_534)
    assert done.code == 4
    first = f"root/graph/{0:064x}"
    assert f"3 files and folders may not be read by this user, first {first}: run as root" in done.errors[0], done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line", ["verify locked", "report locked/x", "inspect locked", "show locked x", "plan locked/x"]
)
def test_a_directory_that_is_closed(line: str, tmp_path: Path) -> None:
    for folder in (tmp_path.parent.parent, tmp_path.parent, tmp_path):
        folder.chmod(0o755)
    (tmp_path / "locked").mkdir(mode=0o700)
    done = migrate(*line.split(), cwd=tmp_path, user=65_534)
    assert done.code == 4
    assert re.match("migrate: error: locked.*may not be read by this user: run as root", done.errors[0]), done.err
