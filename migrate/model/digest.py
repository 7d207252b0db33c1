"""Digests, and the three kinds of identifiers that are digests. A legacy ID is no digest (see `legacy.py`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, NewType, Protocol

from msgspec import Struct

_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")


class Hash(Protocol):
    """A sha256 of `hashlib`."""

    def hexdigest(self) -> str: ...


class Digest(Struct, frozen=True, order=True, gc=False):
    """A sha256 digest. `hex`: 64 lower-case hexadecimal digits, which are checked (ValueError)."""

    hex: str

    def __post_init__(self) -> None:
        if not _SHA256_HEX.fullmatch(self.hex):
            raise ValueError(f"not a sha256 digest: {self.hex!r}")

    def __hash__(self) -> int:
        return hash(self.hex)  # a string caches its hash, which a generated method would compute each time

    @classmethod
    def parse(cls, text: str) -> Digest:
        """`sha256:<64 hex>` → Digest; ValueError for any other text, also for other algorithms."""
        algorithm, separator, value = text.partition(":")
        if algorithm != "sha256" or not separator:
            raise ValueError(f"not a sha256 digest: {text!r}")
        return cls(value)

    @classmethod
    def of(cls, content: bytes) -> Digest:
        return cls.of_hash(hashlib.sha256(content))

    @classmethod
    def of_hash(cls, sha256: Hash) -> Digest:
        """The digest of all bytes that `sha256` got."""
        return cls(sha256.hexdigest())

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


if TYPE_CHECKING:  # the same three types for mypy, which has an internal error at a NewType of a Struct (2.4.1)

    class DiffID(Digest, frozen=True):
        def __init__(self, digest: Digest, /) -> None: ...

    class ChainID(Digest, frozen=True):
        def __init__(self, digest: Digest, /) -> None: ...

    class ImageID(Digest, frozen=True):
        def __init__(self, digest: Digest, /) -> None: ...
else:
    DiffID = NewType("DiffID", Digest)
    """sha256 of a layer's uncompressed tar."""
    ChainID = NewType("ChainID", Digest)
    """Digest of a diffID on top of a chain, as Docker's layer store names it."""
    ImageID = NewType("ImageID", Digest)
    """sha256 of an image's config."""

EMPTY_TAR_DIFF_ID = DiffID(Digest("5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"))
"""1,024 zero bytes: the tar without entries."""
NO_BYTES_DIFF_ID = DiffID(Digest("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"))
"""A layer file of no bytes at all."""


def chain_ids(diff_ids: Iterable[DiffID]) -> Iterator[ChainID]:
    """Yields one chainID per diffID, base first (OCI image spec, "Layer ChainID")."""
    chain: ChainID | None = None
    for diff_id in diff_ids:
        chain = ChainID(diff_id if chain is None else Digest.of(f"{chain} {diff_id}".encode("ascii")))
        yield chain
