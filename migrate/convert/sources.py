"""The sources of a run, each opened once."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from migrate.convert.source_paths import distinct_sources
from migrate.errors import MigrateError, UsageError
from migrate.layout.names import plain_path
from migrate.model.legacy import SourceListing
from migrate.model.options import ReadOptions
from migrate.readers.base import LegacySource
from migrate.readers.detect import open_source


class OpenedSource(Struct):
    """A source of the run: opened, or the error why it could not be opened."""

    location: str
    source: LegacySource | None = None
    error: MigrateError | None = None
    listing: SourceListing | None = None
    type: str | None = None

    def close(self) -> None:
        """Closes the source and drops it and its listing, which take much memory for sources with many images."""
        if self.source is not None:
            self.type = self.source.source_type.value
            self.source.close()
            self.source = self.listing = None

    @property
    def is_one_file(self) -> bool:
        """True if nothing but the file at the location is read: not a file in a disk image or in another archive."""
        return self.source is not None and self.source.reads_one_file and self.source.location == self.location


def open_sources(locations: Sequence[str], options: ReadOptions) -> list[OpenedSource]:
    """Opens each source once. A source that cannot be opened is returned with its error. Raises UsageError."""
    if list(locations).count("-") > 1:
        raise UsageError("standard input can be read only once")
    opened = []
    for location in distinct_sources(locations):
        path = plain_path(location)
        try:
            opened.append(OpenedSource(path, open_source(location, options)))
        except MigrateError as error:
            if error.scope == "run":
                raise
            opened.append(OpenedSource(path, error=error))
    return opened
