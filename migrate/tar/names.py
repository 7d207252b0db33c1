"""Names of a tar's entries as paths, as Go cleans them."""

from __future__ import annotations

import posixpath


def go_clean(name: bytes) -> bytes:
    """Go's filepath.Clean. Most names only lose the slash of a directory."""
    if name[:1] in (b"", b".", b"/") or b"//" in name or b"/." in name:
        return posixpath.normpath(name or b".").replace(b"//", b"/")  # normpath keeps two leading slashes
    return name[:-1] if name.endswith(b"/") else name


def below_root(name: bytes) -> bytes:
    """`./a//b/` → `a/b`, the root → b"". As Go joins a name to a root: `..` is removed together with the part before
    it, without looking for symbolic links, and never leads above the root."""
    if name[:1] not in (b".", b"/") and b"//" not in name and b"/." not in name:
        return name.rstrip(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def leads_out(name: bytes) -> bool:
    """True if Docker refuses the name because it leads out of the directory of the layer ("invalid tar header", moby
    pkg/archive/diff.go, UnpackLayer)."""
    return b".." in name and (go_clean(name) + b"/").startswith(b"../")


def shown_name(name: bytes) -> str:
    """The name for messages, with escapes for bytes that are not UTF-8."""
    return name.decode("utf-8", "backslashreplace")
