from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from migrate.errors import DamagedError, MissingLayerError, SourceError, TruncatedError
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.tar_tree import TarTree
from migrate.storage.tree import Tree, TreeEntry
from tests import wrappings
from tests.roots import write

_MTIME = 1_400_000_000_123_456_789


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All kinds of entries, and a sparse file with more pieces than fit any header."""
    place = tmp_path_factory.mktemp("tar") / "tree"
    write(place / "usr/bin/tool", b"tool" * 300, mode=0o4755)
    (place / "etc").mkdir()
    os.link(place / "usr/bin/tool", place / "etc/same-file")
    (place / "etc/link").symlink_to("../usr/bin/tool")
    (place / "etc/dangling").symlink_to("/" + "long-name/" * 20)
    write(place / "empty")
    os.mknod(place / "gone", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    os.mknod(place / "etc/disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    os.mkfifo(place / "etc/fifo")
    deep = place / "/".join(f"folder-with-a-long-name-{number}" for number in range(12))
    write(deep / os.fsdecode(b"not-utf8-\xff\xe9"), b"deep")
    write(place / "owned", b"x").chmod(0o2640)
    os.chown(place / "owned", 3_000_000, 4_000_000)
    os.setxattr(place / "usr", "trusted.overlay.opaque", b"y")
    os.setxattr(place / "usr/bin/tool", "user.binary", b"a=b\n\0\xff")
    with open(place / "sparse", "wb") as file:
        for piece in range(60):
            file.seek(piece * 131_072 + 4_096)
            file.write(b"%04d" % piece * 1024)
        file.truncate(60 * 131_072 + 1_000_000)
    (place / "hole").touch()
    os.truncate(place / "hole", 3_000_000)
    for entry in (deep, place / "owned", place / "etc", place / "usr"):
        os.utime(entry, ns=(_MTIME, _MTIME))
    return place


def test_a_pax_header_of_solaris_is_one(tmp_path: Path) -> None:
    """Its tar has the type X where POSIX has x."""
    long = "n" * 150
    with tarfile.open(tmp_path / "solaris.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name in (long, "plain"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"text"))
    content = bytearray((tmp_path / "solaris.tar").read_bytes())
    assert content[156:157] == b"x"
    content[156:157] = b"X"
    header = content[:148] + b" " * 8 + content[156:512]
    content[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "solaris.tar").write_bytes(content)
    with open_tree(tmp_path / "solaris.tar") as tree:
        assert tree.read(long.encode(), 4) == tree.read(b"plain", 4) == b"text"
        assert len(tree.entries(b"")) == 2 and not tree.problems()


def open_tree(tar: Path) -> TarTree:
    return TarTree(os.open(tar, os.O_RDONLY), str(tar))


def walk(tree: Tree, folder: bytes = b"") -> Iterator[TreeEntry]:
    for entry in tree.entries(folder):
        yield entry
        if entry.is_folder:
            yield from walk(tree, entry.path)


def read(tree: Tree, path: bytes) -> bytes:
    with tree.open(path) as stream:
        return stream.read()


def describe(tree: Tree, *, seconds: bool = False, xattrs: bool = True) -> dict[bytes, tuple[object, ...]]:
    """Everything about each entry that a tar can hold; hard links by the first name of their file."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}
    for entry in walk(tree):
        content = hashlib.sha256(read(tree, entry.path)).digest() if entry.is_file else b""
        target = tree.read_link(entry.path) if entry.is_link else b""
        time = entry.mtime_ns // 10**9 if seconds else entry.mtime_ns
        same = None if entry.is_folder else (first.setdefault(entry.inode, entry.path), entry.nlink, entry.size)
        attributes = dict(tree.xattrs(entry.path)) if xattrs else {}
        found[entry.path] = (entry[1:4], time, entry.rdev, same, content, target, attributes)
    return found


@pytest.mark.peer
@pytest.mark.parametrize("writer", wrappings.ALL)
def test_a_tar_of_any_writer_is_the_folder(folder: Path, tmp_path: Path, writer: str) -> None:
    wrappings.ALL[writer](folder, tmp_path / "a.tar")
    whole_seconds, xattrs = writer in wrappings.IN_WHOLE_SECONDS, writer in wrappings.WITH_ALL
    seconds = whole_seconds or writer == "python-pax"  # which rounds by way of a float
    with open_tree(tmp_path / "a.tar") as tree:
        found = describe(tree, seconds=seconds, xattrs=xattrs)
        assert found == describe(DirectoryTree(str(folder)), seconds=seconds, xattrs=xattrs)
        assert not tree.problems()
        assert tree.has_whole_seconds is whole_seconds
        tree.require_whole(b"")


@pytest.mark.peer
@pytest.mark.parametrize("writer", wrappings.ALL)
def test_content_is_read_by_position(folder: Path, tmp_path: Path, writer: str) -> None:
    wrappings.ALL[writer](folder, tmp_path / "a.tar")
    expected = (folder / "sparse").read_bytes()
    with open_tree(tmp_path / "a.tar") as tree:
        blocks = tree.open_blocks(b"sparse")
        assert blocks.size == len(expected)
        for start in (0, 4_095, 131_000, 60 * 131_072 - 10, len(expected) - 20):
            assert blocks.read_at(start, 20) == expected[start : start + 20]
        with pytest.raises(SourceError):
            blocks.read_at(len(expected) - 10, 20)
        extent = tree.extent(b"usr/bin/tool")
        assert extent is not None
        assert os.pread(extent.fd, extent.size, extent.offset) == b"tool" * 300


class Tar:
    """A tar made entry by entry."""

    def __init__(self, form: Literal[0, 1, 2] = tarfile.GNU_FORMAT) -> None:
        self._file = io.BytesIO()
        self._form = form
        self.places: dict[str, int] = {}

    def add(self, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", **fields: int) -> Tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(content)
        for key, value in fields.items():
            setattr(info, key, value)
        self.places[name] = self._file.tell()
        self._file.write(info.tobuf(self._form, "utf-8", "surrogateescape"))
        self._file.write(content + bytes(-len(content) % 512))
        return self

    def folder(self, *names: str) -> Tar:
        for name in names:
            self.add(name, kind=tarfile.DIRTYPE, mode=0o755)
        return self

    def content(self, end: int = 1024) -> bytearray:
        return bytearray(self._file.getvalue() + bytes(end))

    def write(self, place: Path, content: bytes | bytearray | None = None) -> TarTree:
        (place / "made.tar").write_bytes(self.content() if content is None else content)
        return open_tree(place / "made.tar")


def test_names_are_taken_below_the_top(tmp_path: Path) -> None:
    tar = Tar().folder("./", "./a/").add("/a/absolute", b"1").add("a//./doubled", b"2").add("../out", b"3")
    with tar.add("a/../../out", b"4").write(tmp_path) as tree:
        assert [entry.path for entry in walk(tree)] == [b"a", b"a/absolute", b"a/doubled"]
        assert "2 names that lead out of the tar, left out: '../out', 'a/../../out'" in tree.problems()[0]


def test_a_later_entry_replaces_an_earlier_one(tmp_path: Path) -> None:
    tar = Tar().folder("a", "b").add("a/x", b"old", mode=0o600).add("a/x", b"new", mode=0o640).add("b/y", b"gone")
    tar.add("a/kept", b"k").add("a", kind=tarfile.DIRTYPE, mode=0o700).add("b", b"now a file")
    with tar.write(tmp_path) as tree:
        assert [entry.path for entry in walk(tree)] == [b"a", b"a/kept", b"a/x", b"b"]
        assert read(tree, b"a/x") == b"new"
        assert tree.stat(b"a").mode == stat.S_IFDIR | 0o700
        assert read(tree, b"b") == b"now a file"
        with pytest.raises(MissingLayerError):
            tree.stat(b"b/y")


def test_hard_links_lead_to_their_file_in_any_order(tmp_path: Path) -> None:
    tar = Tar().folder("a", "b").add("b/early", kind=tarfile.LNKTYPE, link="./a/file").add("a/file", b"content")
    tar.add("b/late", kind=tarfile.LNKTYPE, link="a/file").add("b/lost", kind=tarfile.LNKTYPE, link="a/nothing")
    with tar.write(tmp_path) as tree:
        assert len({tree.stat(path).inode for path in (b"a/file", b"b/early", b"b/late")}) == 1
        assert tree.stat(b"a/file").nlink == 3
        assert "1 hard links to files that are not in the tar, left out: 'b/lost'" in tree.problems()[0]
        tree.require_whole(b"a")
        with pytest.raises(DamagedError, match="b: may have lost entries: b'b/lost' is a hard link"):
            tree.require_whole(b"b")


def test_an_entry_below_something_else_is_left_out(tmp_path: Path) -> None:
    tar = Tar().add("link", kind=tarfile.SYMTYPE, link="/etc").add("link/passwd", b"x").add("file").add("file/x", b"x")
    with tar.write(tmp_path) as tree:
        assert [entry.path for entry in walk(tree)] == [b"file", b"link"]
        assert "2 entries below something that is not a folder, left out: 'link/passwd', 'file/x'" in tree.problems()[0]


def test_a_folder_without_an_entry_is_not_whole(tmp_path: Path) -> None:
    with Tar().folder("a").add("a/b/c", b"x").add("d/e", b"y").write(tmp_path) as tree:
        assert tree.stat(b"a/b").is_folder
        tree.require_whole(b"a", names=True)
        with pytest.raises(DamagedError, match="a/b: the tar has no entry for this folder"):
            tree.require_whole(b"a")


def test_negative_owners_and_times_are_those_of_linux(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with Tar(form).add("nobody", uid=-2, gid=-2, mtime=-5).write(tmp_path) as tree:
            entry = tree.stat(b"nobody")
            assert (entry.uid, entry.gid, entry.mtime_ns) == (0xFFFFFFFE, 0xFFFFFFFE, -5_000_000_000)


@pytest.fixture
def layers() -> Tar:
    tar = Tar().folder("graph", "vfs", "vfs/dir")
    for layer in ("one", "two", "three"):
        tar.folder(f"graph/{layer}").add(f"graph/{layer}/json", b"{}").folder(
            f"vfs/dir/{layer}", f"vfs/dir/{layer}/etc"
        )
        inner = bytes(Tar().add("etc/passwd", b"root").folder("bin").content())
        tar.add(f"vfs/dir/{layer}/etc/a", inner).add(f"vfs/dir/{layer}/etc/b", b"b" * 5_000).add(f"vfs/dir/{layer}/z")
    return tar


def lost(tree: TarTree) -> set[str]:
    found = set()
    for path in (b"graph/one", b"graph/two", b"graph/three", b"vfs/dir/one", b"vfs/dir/two", b"vfs/dir/three"):
        try:
            tree.require_whole(path)
        except DamagedError:
            found.add(path.decode())
    return found


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("vfs/dir/two/etc/b", 1, {"vfs/dir/two"}),
        ("vfs/dir/two/etc/a", 1, {"vfs/dir/two"}),
        ("vfs/dir/two/z", 1, {"vfs/dir/two"}),
        ("vfs/dir/two/etc", 1, {"vfs/dir/two"}),
        ("graph/two/json", 1, {"graph/two"}),
        ("vfs/dir/two/etc/a", 512, {"vfs/dir/two"}),
    ],
)
def test_damage_costs_the_folder_that_it_hits(
    layers: Tar, tmp_path: Path, name: str, size: int, expected: set[str]
) -> None:
    content = layers.content()
    place = layers.places[name]
    content[place : place + size] = bytes(byte ^ 0x55 for byte in content[place : place + size])
    with layers.write(tmp_path, content) as tree:
        assert any(f"header at byte {place:,}: wrong checksum; reading continues" in line for line in tree.problems())
        assert lost(tree) == expected
        assert read(tree, b"vfs/dir/three/etc/b") == b"b" * 5_000
        assert not any(b"passwd" in entry.path for entry in walk(tree))  # of a tar inside the tar


def test_every_damaged_header_is_noticed(layers: Tar, tmp_path: Path) -> None:
    for name, place in layers.places.items():
        content = layers.content()
        content[place + 3] ^= 0x10
        with layers.write(tmp_path, content) as tree:
            assert tree.problems(), name
            assert lost(tree) or name in ("graph", "vfs", "vfs/dir"), name


def test_a_sector_of_zeros_is_damage(layers: Tar, tmp_path: Path) -> None:
    content = layers.content()
    place = layers.places["vfs/dir/two/etc/b"]
    content[place : place + 1024] = bytes(1024)
    with layers.write(tmp_path, content) as tree:
        assert "where the archive does not end" in tree.problems()[0]
        assert lost(tree) == {"vfs/dir/two"}


@pytest.mark.parametrize("zeros", [1024, 4096, 64 * 1024])
def test_behind_zeros_reading_goes_on_whatever_comes(zeros: int, tmp_path: Path) -> None:
    """Also where they end at another folder at the top than those before them, or at a header of a long name."""
    for name in ("vfs", "vfs/" + "n" * 120):
        tar = Tar().folder("graph").add("graph/lost", bytes(zeros - 512)).folder(name).add("other/file", b"text")
        content = tar.content()
        place = tar.places["graph/lost"]
        content[place : place + zeros] = bytes(zeros)
        with tar.write(tmp_path, content) as tree:
            assert f"zeros at byte {place:,}, where the archive does not end" in tree.problems()[0]
            assert read(tree, b"other/file") == b"text" and tree.stat(name.encode()).is_folder
            with pytest.raises(DamagedError):
                tree.require_whole(b"graph")


FOLLOWING: dict[str, Callable[[bytes], bytes]] = {
    "a damaged tar": lambda tar: b"\xff" * 1024 + tar,
    "a tar whose first block is lost": lambda tar: b"\xff" * 512 + tar[512:],
    "a compressed tar": gzip.compress,
}


@pytest.mark.parametrize("following", FOLLOWING)
@pytest.mark.parametrize("zeros", [1024, 10_240])
def test_what_follows_an_end_and_is_no_tar_is_named(following: str, zeros: int, tmp_path: Path) -> None:
    tar = Tar().folder("a").add("a/file", b"text")
    other = bytes(Tar().folder("b", "c").add("b/file", b"other").content())
    with tar.write(tmp_path, tar.content(zeros) + FOLLOWING[following](other)) as tree:
        (problem,) = tree.problems()
        assert "perhaps another archive" in problem and problem.endswith("what follows is lost")
        assert read(tree, b"a/file") == b"text" and tree.find(b"b") is None
    with tar.write(tmp_path, tar.content(zeros) + bytes(range(1, 255)) * 80) as tree:
        assert not tree.problems()


def test_a_tar_that_is_cut_off_has_what_comes_before(layers: Tar, tmp_path: Path) -> None:
    content = layers.content()[: layers.places["vfs/dir/three/etc/b"] + 2_000]
    with layers.write(tmp_path, content) as tree:
        assert "end" in tree.problems()[0]
        assert lost(tree) == {"vfs/dir/three"}
        with pytest.raises(TruncatedError):
            read(tree, b"vfs/dir/three/etc/b")
        assert tree.extent(b"vfs/dir/three/etc/b") is None
        assert read(tree, b"vfs/dir/two/etc/b") == b"b" * 5_000


def test_a_damaged_long_name_costs_its_entry_alone(tmp_path: Path) -> None:
    tar = Tar(tarfile.PAX_FORMAT).folder("a", "a/" + "n" * 120).add("a/" + "m" * 120, b"1").add("a/z", b"2")
    content = tar.content()
    content[content.index(b" path=a/mmm")] = ord("x")
    with tar.write(tmp_path, content) as tree:
        assert "malformed pax record" in tree.problems()[0]
        assert [entry.path for entry in walk(tree)] == [b"a", b"a/" + b"n" * 120, b"a/z"]
        with pytest.raises(DamagedError):
            tree.require_whole(b"a")


NUMBERS = {"start": 386, "length": 398, "size": 483, "stored": 124, "mtime": 136, "mode": 100, "uid": 108, "major": 329}


@pytest.mark.parametrize("kind", [b"S", b"0", b"3", b"5"])
@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [1 << 62, 1 << 63, 1 << 64, (1 << 80) - 1, -1, -(1 << 64)])
def test_numbers_beyond_all_bounds_are_damage_or_cut_as_linux_does(
    kind: bytes, field: str, value: int, tmp_path: Path
) -> None:
    """GNU's binary numbers of twelve bytes hold far more than any size, place or time has."""
    member = tarfile.TarInfo("f")
    member.type, member.size = kind, 512 if kind in b"S0" else 0
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT)[:512])
    if kind == b"S":
        header[386:410], header[483:495] = b"00000000000\x0000000001000\x00", b"00000001000\x00"
    width = 8 if field in ("mode", "uid", "major") else 12
    number = bytes([0xFF if value < 0 else 0x80]) + (value % (1 << 8 * (width - 1))).to_bytes(width - 1, "big")
    header[NUMBERS[field] : NUMBERS[field] + width] = number
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(512 * 3))
    with open_tree(tmp_path / "a.tar") as tree:
        for entry in walk(tree):
            assert 0 <= entry.size < 1 << 53
            if stat.S_ISREG(entry.mode):
                try:
                    read(tree, entry.path)
                except SourceError:
                    assert field in ("start", "length", "size", "stored")
