"""Makes text from sources, which is not trusted, safe for a terminal or a report."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with escapes such as `\\x1b` for control and direction characters, which a terminal could execute. A byte
    that is no text (surrogateescape) becomes an escape, too."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    point = ord(character)
    if 0xDC80 <= point <= 0xDCFF:
        point -= 0xDC00
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
