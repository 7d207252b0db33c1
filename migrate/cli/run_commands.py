"""`inspect --containers --run-commands`: a shell script that creates old containers again. It is printed, never run."""

from __future__ import annotations

import os
import re
import shlex

from migrate.model.text import printable
from migrate.readers.inventory import ContainerEntry

_HEAD = """\
#!/bin/bash
# From the containers of {location}.
# Load their images first: migrate convert --containers SOURCE TARGET, then `docker load` or `migrate push`.
# Check every line before you run it: the options are those of the old containers.
"""


def render_run_commands(rows: tuple[ContainerEntry, ...], location: str) -> str:
    """One `docker run` for each container, after the commands that fill its volumes."""
    lines = [_HEAD.format(location=printable(location))]
    for row in rows:
        container = row.container
        image = row.run.image_name or container.image
        lines.append(printable(f"# {container.title}, {container.state}, of image {image}"))
        for volume in container.volumes:
            name = dict(row.run.volume_names).get(volume.path)
            if name is None:
                place = f"the directory {volume.source} of the machine that Docker ran on"
                lines.append(printable(f"# {volume.path} is {place}"))
                continue
            lines.append(f"docker volume create {quote(name)}")
            if os.path.isdir(volume.source):
                mountpoint = f"\"$(docker volume inspect --format '{{{{.Mountpoint}}}}' {quote(name)})\""
                lines.append(f"cp -a -- {quote(volume.source + '/.')} {mountpoint}")
            else:
                text = f"# copy the files of {volume.source} into it: this machine has no such directory"
                lines.append(printable(text))
        lines += [" ".join(map(quote, row.run.words)), ""]
    return "\n".join(lines)


def quote(word: str) -> str:
    """`word` quoted for bash, with control characters escaped, since the script may be printed on a terminal."""
    if printable(word) == word or (printable(word.translate(_BLANKS)) == word.translate(_BLANKS)):
        return shlex.quote(word)
    return "$'" + _SPECIAL.sub(_escaped, word) + "'"


_BLANKS = {ord("\n"): " ", ord("\t"): " "}
_SPECIAL = re.compile(r"[\\'\x00-\x1f\x7f]|[^\x20-\x7e]")


def _escaped(match: re.Match[str]) -> str:
    point = ord(match[0])
    if match[0] in "\\'":
        return "\\" + match[0]
    if 0xDC80 <= point <= 0xDCFF:  # a surrogate: a byte of a path that is not UTF-8
        return f"\\x{point - 0xDC00:02x}"
    if point < 0x80:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
