"""Recognises files and folders that are no source, for an error that names what they are and what to do with them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final

from migrate.blobio.compression import detect_compression
from migrate.distribution.layout import ROOTS
from migrate.errors import NoImageError, SourceError, SourceUnreadableError, UnfitSourceError
from migrate.model.legacy import is_hex_id
from migrate.storage.tree import Tree
from migrate.tar.index import looks_like_tar

_MAGIC: Final = {
    b"PK\x03\x04": "a zip archive: unpack it, and name what is in it",
    b"PK\x05\x06": "an empty zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: unpack it, and name what is in it",
    b"Rar!\x1a\x07": "a RAR archive: unpack it, and name what is in it",
    b"\x04\x22\x4d\x18": "compressed by lz4: `lz4 -dc FILE | migrate convert - OUT`",
    b"\x89LZO\0": "compressed by lzop: `lzop -dc FILE | migrate convert - OUT`",
    b"\x1f\x9d": "compressed by compress: `uncompress -c FILE | migrate convert - OUT`",
    b"hsqs": "a SquashFS image: `unsquashfs` it, and name the directory",
    b"]\0\0": "compressed by lzma: `xz --format=lzma -dc FILE | migrate convert - OUT`",
    b"xFSdump0": "a dump of an XFS file system: `xfsrestore -f FILE DIRECTORY`, and name the root in it",
    b"VMA\0": "a backup of Proxmox: `vma extract FILE DIRECTORY`, and name the disk in it",
    b"partclone-image": "an image of partclone (Clonezilla): `partclone.restore -C -s FILE -O disk.img`, name disk.img",
    **dict.fromkeys(
        (b"070701", b"070702", b"070707", b"\xc7\x71"),
        "a cpio archive: unpack it (`cpio -idm < FILE`), and name what is in it",
    ),
    b"!<arch>\n": "an archive of ar, such as a package of Debian",
    b"\xed\xab\xee\xdb": "a package of RPM",
    b"xar!": "a xar archive: unpack it, and name what is in it",
    b"MSWIM\0": "a WIM image: unpack it, and name what is in it",
    b"LZIP": "compressed by lzip: `lzip -dc FILE | migrate convert - OUT`",
    b"LRZI": "compressed by lrzip: `lrzip -dqo - FILE | migrate convert - OUT`",
    b"H4sI": "text in base64: `base64 -d FILE | migrate convert - OUT`",  # of gzip
    b"/Td6WFo": "text in base64: `base64 -d FILE | migrate convert - OUT`",  # of xz
    b"begin 6": "text of uuencode: `uudecode -o - FILE | migrate convert - OUT`",
    b"begin-base64": "text of uuencode: `uudecode -o - FILE | migrate convert - OUT`",
    b"Salted__": "encrypted by openssl: `openssl enc -d …` it, and name the result",
    b"age-encryption.org/": "encrypted by age: `age -d FILE | migrate convert - OUT`",
    **dict.fromkeys(
        (b"-----BEGIN PGP MESSAGE", b"\x85\x01\x0c\x03", b"\x85\x02\x0c\x03", b"\x8c\x0d\x04"),
        "encrypted by gpg: `gpg -d FILE | migrate convert - OUT`",
    ),
    b"btrfs-stream\0": "a stream of `btrfs send`: `btrfs receive DIRECTORY < FILE`, and name the root in it",
    b"\0\0\0\0\0\0\0\0\xac\xcb\xba\xf5\2\0\0\0": (
        "a stream of `zfs send`: `zfs receive POOL/NAME < FILE`, and name the root in it"
    ),
    b"FsArCh_": "an archive of FSArchiver: `fsarchiver restfs` it into a file, and name that",
    b"PaRtImAgE-VoLuMe": "an image of Partimage: restore it into a file, and name that",
    b"SQLite format 3\0": "a database of SQLite, such as linkgraph.db of a Docker root: name the directory above it",
    b"\x7fELF": "a program",
}
_DUMP: Final = (24, b"\x6c\xea\0\0")
"""The place and the value of the magic in the records of dump(8), in its new form."""
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_MARKUP: Final = re.compile(rb"\s*<(?:!doctype\s+html|html|\?xml)", re.IGNORECASE)
_BLOB_FOLDER: Final = re.compile(r"[0-9a-f]{2}|[0-9a-f]{64}")
_LOOKED_INTO: Final = 1_000
_USTAR: Final = 257
_SEARCHED: Final = 64 * 1024
_LINES: Final = 32
"""Compressed bytes do not have so many LF by chance, all of them with a CR before it."""
_LINES_OF_DAMAGED: Final = 3
"""The same in a tar whose headers are not where they should be."""
_ROOT_FOLDERS: Final = frozenset(
    {"bin", "dev", "etc", "home", "lib", "opt", "proc", "root", "sbin", "tmp", "usr", "var"}
)
_SUFFIXES: Final = (".tar", ".gz", ".tgz", ".xz", ".bz2", ".zst")
_ID: Final = re.compile(r"[0-9a-f]{12}|[0-9a-f]{64}")
_IMAGE_NAME: Final = re.compile(r"[a-z0-9]+(?:[._/:-][a-zA-Z0-9_.-]+)*")


def foreign_form(head: bytes) -> str | None:
    """The kind of a file that begins with `head`, if it is a known kind other than an archive; else None."""
    if _MARKUP.match(head):
        return "a page of HTML or XML, as a server gives in place of a file that it does not have"
    place, magic = _DUMP
    if head[place : place + len(magic)] == magic:
        return "a dump of an ext file system: `restore -rf FILE` in an empty directory, and name the root in it"
    return next((what for magic, what in _MAGIC.items() if head.startswith(magic)), None)


def altered_form(head: bytes) -> str | None:
    """How a file that begins with `head` was altered, if it may have been an archive; None if it may not."""
    if head.startswith(_UTF16):
        return (
            "text in UTF-16, as PowerShell writes what is redirected with `>`: the bytes of the archive are lost; "
            "save it again with `docker save -o FILE NAME`"
        )
    start = _find_tar(head)
    if not start:
        return None
    # Text before the tar is often the output of a command, such as a warning of ssh or kubectl.
    lines = head[:start].decode("utf-8", "replace").splitlines()
    if not lines or not lines[0].isprintable() or "\ufffd" in lines[0]:
        return (
            f"a tar archive with {start:,} bytes of something else before it, such as a later part of an archive that "
            "was split: `cat PARTS | migrate convert - OUT`"
        )
    return (
        f"a tar archive with {start:,} bytes of something else before it ({lines[0][:80]!r}): "
        f"`tail -c +{start + 1} FILE | migrate convert - OUT`"
    )


def twice_compressed(plain_head: bytes) -> str | None:
    """The error text for a file that is compressed twice, else None. `plain_head`: its first bytes, decompressed
    once."""
    if detect_compression(plain_head) == "none":
        return None
    return "compressed twice: decompress it once (`gzip -dc`, `xz -dc` or the like), and name the result"


def is_text_copy(raw: bytes, *, is_damaged: bool) -> bool:
    """True if a file that begins with `raw`, not decompressed, was copied in text mode: each LF became CR LF.

    `is_damaged`: the file is a tar whose headers are not at their places; otherwise it is compressed.
    """
    ends = raw.count(b"\n")
    return ends >= (_LINES_OF_DAMAGED if is_damaged else _LINES) and raw.count(b"\r\n") == ends


_EXPORT: Final = (
    "the file system of one container, as `docker export` writes it, without the image's layers and configuration: "
    "`docker import FILE NAME:TAG` makes an image of it"
)
_ROOT_FILE_SYSTEM: Final = "a root file system and no image: `docker import FILE NAME:TAG` makes an image of it"
TEXT_COPY: Final = (
    "was copied in text mode, which put a CR before each LF (FTP in ASCII mode, or a shell of Windows): the bytes that "
    "it had are not certain any more; copy it again in binary mode"
)


def foreign_tar(location: str, names: Iterable[str]) -> SourceUnreadableError:
    """The error for a tar with members of these names and without an image."""
    found = {name.removeprefix("./").rstrip("/") for name in names}
    if ".dockerenv" in found or ".dockerinit" in found:
        return UnfitSourceError(f"{location}: is {_EXPORT}")
    if _is_root_file_system(found):
        return NoImageError(f"{location}: is {_ROOT_FILE_SYSTEM}")
    return NoImageError(f"{location}: holds no image")


def foreign_folder(tree: Tree) -> str | None:
    """The kind of a directory that is no source; None if it is of no known kind."""
    try:
        names = {os.fsdecode(name) for name in tree.list_names(b"")}
        # A part of a source comes first: its directories of layers could also look like root file systems.
        if any(is_hex_id(name) and tree.find(f"{name}/json".encode()) is not None for name in names):
            return "graph/ of a Docker root, which holds no layers: name the directory above it"
        if names & {"diff", "mnt", "layers"} == {"diff", "mnt", "layers"}:
            return "aufs/ of a Docker root: name the directory above it"
        if any(is_hex_id(name) for name in names):
            return "perhaps a part of a Docker root (the directories of a storage driver): name the root above it"
        if (part := _part_of_storage(tree, names)) is not None:
            return part
    except SourceError:
        return None
    if ".dockerenv" in names or ".dockerinit" in names:
        return _EXPORT
    return _ROOT_FILE_SYSTEM if _is_root_file_system(names) else None


def _part_of_storage(tree: Tree, names: Collection[str]) -> str | None:
    """The error text for a directory that is a part of a registry's storage, without the rest; else None."""
    for root in ROOTS:
        place = f"{root}/" if root else ""
        if tree.is_folder(f"{place}repositories".encode()):
            return (
                f"a registry's storage that has only names: the layers are in {place}blobs/ (v2) or {place}images/ "
                "(v1), which is not there"
            )
    own = any(tree.is_folder(os.fsencode(name) + b"/_manifests") for name in islice(names, _LOOKED_INTO))
    if own or "_manifests" in names or "_layers" in names:
        return "a part of a registry's storage without its blobs: name the directory that holds docker/registry/v2/"
    if names == {"sha256"} and any(_BLOB_FOLDER.fullmatch(os.fsdecode(name)) for name in tree.list_names(b"sha256")):
        return "blobs/ of an OCI layout or of a registry's storage: name the directory above it"
    return None


def name_of_image(location: str) -> str | None:
    """A hint for a location that is no path but may be the name of an image, or the ID of a container; else None."""
    if (
        location.startswith(("./", "../", "/"))
        or location.lower().endswith(_SUFFIXES)
        or not _IMAGE_NAME.fullmatch(location)
    ):
        return None
    saved = f"if it is the name of an image: `docker save {location} | migrate convert - OUT`"
    if _ID.fullmatch(location):
        saved += f"; of a container: `docker commit {location} NAME`, and the same with NAME"
    return saved


def other_part(path: str) -> str | None:
    """The next or else the previous file, if `path` is named as `split` and others name the parts of a file (`x.aa`,
    `x.00`, `x.001`) and that file is there."""
    found = re.fullmatch(r"(.+?)(\d{2,3}|[a-z]{2})", path, re.DOTALL)
    if found is None:
        return None
    begin, number = found.groups()
    digits = "0123456789" if number.isdigit() else "abcdefghijklmnopqrstuvwxyz"
    base = len(digits)
    value = sum(digits.index(digit) * base**place for place, digit in enumerate(reversed(number)))
    for near in (value + 1, value - 1):
        name = "".join(digits[near // base**place % base] for place in reversed(range(len(number))))
        if 0 <= near < base ** len(number) and os.path.isfile(begin + name):
            return begin + name
    return None


def _is_root_file_system(names: Collection[str]) -> bool:
    return len(_ROOT_FOLDERS & {name.partition("/")[0] for name in names}) >= 4


def _find_tar(head: bytes) -> int | None:
    """The offset of the first valid tar header in `head`; None if there is none."""
    place = head.find(b"ustar", 0, _SEARCHED)
    while place >= 0:
        start = place - _USTAR
        if start >= 0 and looks_like_tar(head[start : start + 512]):
            return start
        place = head.find(b"ustar", place + 1, _SEARCHED)
    return None
