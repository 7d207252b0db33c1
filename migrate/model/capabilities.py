"""Asking an object for what only some of its kind can do: `fills(target, RemovesBlobs)`.

`isinstance` with a protocol looks at every method anew, which in Python 3.11 takes longer than hashing a small layer;
here the answer is remembered by class.
"""

from __future__ import annotations

from typing import Any, Final, TypeGuard, TypeVar

Capability = TypeVar("Capability")

_known: Final[dict[tuple[type, type], bool]] = {}


def fills(value: object, protocol: type[Capability]) -> TypeGuard[Capability]:
    """True if `value`, and so every object of its class, has all that `protocol` names (a `runtime_checkable` one)."""
    key: tuple[type, Any] = (type(value), protocol)
    known = _known.get(key)
    if known is None:
        known = _known[key] = isinstance(value, protocol)
    return known
