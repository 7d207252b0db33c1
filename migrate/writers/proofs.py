"""Proofs that blobs of a target were checked, so that later runs need not read them again: `.migrate/proven`.

A proof is the beginning of a sha256 over one of two sentences, in 32 hex digits on a line of its own:

- *this blob, in this version of its file, has its digest*: made when a run writes the blob, or has read it;
- *this blob, in this version of its file, has the tar of this diffID*: made when a run has compressed or unpacked it.

A version is the inode, size, mtime and ctime of a file, or the ETag of an object. A blob with another version has no
proof, and is read again. So do all blobs of a target that was copied or unpacked elsewhere, because its files get new
inodes and times. A torn or damaged line proves nothing. docs/decisions/0004-hints-are-proven.md lists the changes that
are not noticed.
"""

from __future__ import annotations

import hashlib
import re
import threading
from typing import Final

from migrate.errors import TargetError
from migrate.model.digest import DiffID, Digest
from migrate.model.packed import PackedTable
from migrate.storage.store import STATE_DIRECTORY, AppendedFile, Store

PROOFS: Final = f"{STATE_DIRECTORY}/proven"
RECORD_BYTES: Final = 1024 * 1024 * 1024
"""Largest size of a record that is used: thirty million proofs, six million layers, three million places."""
_LINE: Final = re.compile(rb"^[0-9a-f]{32}$", re.MULTILINE)
_PROOF_BYTES: Final = 16
_LINES: Final = 64


class RecordFile:
    """A file to which all runs on a target append lines. It is opened when the first line is written.

    Up to `waiting` lines are kept and written together; a killed run loses them. The lines of a `private` record are
    used without another check, so it is not read if another user could have written it.
    """

    def __init__(self, store: Store, name: str, *, waiting: int = 0, private: bool = False) -> None:
        self._store = store
        self._name = name
        self._most = waiting
        self._private = private
        self._waiting: list[bytes] = []
        self._file: AppendedFile | None = None

    def read(self) -> bytes:
        """The lines, or nothing if they cannot be read: without them, a run takes longer and gives the same result."""
        try:
            return self._store.read_record(self._name, RECORD_BYTES, private=self._private)
        except TargetError:
            return b""

    def append(self, line: bytes) -> None:
        self._waiting.append(line)
        if len(self._waiting) > self._most:
            self._write()

    def _write(self) -> None:
        lines, self._waiting = b"".join(self._waiting), []
        if self._file is None:
            self._file = self._store.append_to(self._name)
            lines = b"\n" + lines  # a killed run may have left a line without its end
        self._file.append(lines)

    def close(self) -> None:
        """Writes the last lines. Raises TargetError."""
        try:
            if self._waiting:
                self._write()
        finally:
            if self._file is not None:
                file, self._file = self._file, None
                file.close()


class Proofs:
    """The proofs of one target. May be used from several threads. Without `use_existing`, proofs are added but not
    used."""

    def __init__(self, store: Store, *, use_existing: bool = True) -> None:
        self._record = RecordFile(store, PROOFS, waiting=_LINES, private=True)
        self._use_existing = use_existing
        self._known: PackedTable | None = None
        self._lock = threading.Lock()

    def has(self, digest: Digest, size: int, version: str | None, diff_id: DiffID | None = None) -> bool:
        """True if the blob had its digest, or the layer `diff_id`, when its file had this version."""
        if version is None or not self._use_existing:
            return False
        with self._lock:
            return _proof(digest, size, version, diff_id) in self._read()

    def add(self, digest: Digest, size: int, version: str | None, diff_id: DiffID | None = None) -> None:
        if version is None:
            return
        proof = _proof(digest, size, version, diff_id)
        with self._lock:
            known = self._read()
            if proof not in known:
                known.add(proof)
                self._record.append(proof.hex().encode("ascii") + b"\n")

    def read_again(self) -> None:
        with self._lock:
            self._known = None

    def close(self) -> None:
        with self._lock:
            self._record.close()

    def _read(self) -> PackedTable:
        if self._known is None:
            self._known = PackedTable(_PROOF_BYTES)
            for match in _LINE.finditer(self._record.read()):
                proof = bytes.fromhex(match[0].decode("ascii"))
                if proof not in self._known:
                    self._known.add(proof)
        return self._known


def _proof(digest: Digest, size: int, version: str, diff_id: DiffID | None) -> bytes:
    sentence = f"{digest.hex} {size} {version} {'' if diff_id is None else diff_id.hex}"
    return hashlib.sha256(sentence.encode()).digest()[:_PROOF_BYTES]
