"""Digests and the three identifiers that are digests. A legacy ID is none of them (see `legacy.py`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Final, NewType, Protocol

_ALGORITHM: Final = "sha256:"
_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")


class Hash(Protocol):
    """A sha256 of `hashlib`."""

    def hexdigest(self) -> str: ...


class Digest(str):
    """A sha256 digest, as text: `sha256:` and 64 lower-case hexadecimal digits.

    It is made from the digits alone, and construction proves them (ValueError). (A string, because nothing else is
    compared and hashed as often and as fast: a run keeps all it knows of a layer under its diffID.)
    """

    __slots__ = ()

    def __new__(cls, hex: str) -> Digest:
        if not _SHA256_HEX.fullmatch(hex):
            raise ValueError(f"not a sha256 digest: {hex!r}")
        return str.__new__(cls, _ALGORITHM + hex)

    def __getnewargs__(self) -> tuple[str]:
        return (self.hex,)

    @property
    def hex(self) -> str:
        return self[len(_ALGORITHM) :]

    @classmethod
    def parse(cls, text: str) -> Digest:
        """`sha256:<64 hex>` → Digest; ValueError for anything else, other algorithms included."""
        algorithm, separator, value = text.partition(":")
        if algorithm != "sha256" or not separator:
            raise ValueError(f"not a sha256 digest: {text!r}")
        return cls(value)

    @classmethod
    def of(cls, content: bytes) -> Digest:
        return cls.of_hash(hashlib.sha256(content))

    @classmethod
    def of_hash(cls, sha256: Hash) -> Digest:
        """Of all that `sha256` was fed."""
        return str.__new__(cls, _ALGORITHM + sha256.hexdigest())


DiffID = NewType("DiffID", Digest)
"""sha256 of a layer's uncompressed tar."""
ChainID = NewType("ChainID", Digest)
"""Digest of a diffID on top of a chain, as Docker's layer store names it."""
ImageID = NewType("ImageID", Digest)
"""sha256 of an image's config."""

EMPTY_TAR_DIFF_ID = DiffID(Digest("5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"))
"""1,024 zero bytes: the tar without an entry."""
NO_BYTES_DIFF_ID = DiffID(Digest("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"))
"""A layer file of no bytes at all."""


def chain_ids(diff_ids: Iterable[DiffID]) -> Iterator[ChainID]:
    """Yields one chainID per diffID, base first (OCI image spec, "Layer ChainID")."""
    chain: ChainID | None = None
    for diff_id in diff_ids:
        chain = ChainID(diff_id if chain is None else Digest.of(f"{chain} {diff_id}".encode("ascii")))
        yield chain
