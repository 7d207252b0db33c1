"""Small reads of metadata through a bounded cache of pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from migrate.storage.pieces import require_inside

if TYPE_CHECKING:
    from migrate.storage.blocks import Blocks

_PAGE: Final = 16 * 1024
_MOST_PAGES: Final = 1024


class PagedReader:
    """Reads whole pages, so that neighbouring inodes need one read."""

    def __init__(self, device: Blocks) -> None:
        self._device = device
        self._pages: dict[int, bytes] = {}
        self.size = device.size

    def read_at(self, offset: int, size: int) -> bytes:
        first, inside = divmod(offset, _PAGE)
        require_inside(offset, size, self.size)
        if inside + size > _PAGE:
            return self._device.read_at(offset, size)
        page = self._pages.get(first)
        if page is None:
            page = self._device.read_at(first * _PAGE, min(_PAGE, self.size - first * _PAGE))
            # Emptied at once: this is safe between threads without a lock, and reading the pages again is cheap.
            if len(self._pages) >= _MOST_PAGES:
                self._pages.clear()
            self._pages[first] = page
        return page[inside : inside + size]
