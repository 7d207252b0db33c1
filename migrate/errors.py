"""All exceptions of this program. Each has an exit code and a scope.

The scope is the extent of the loss: one image ("image"), one whole source ("source") or the run ("run"). The CLI turns
an error into an exit code; no other package prints or exits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Literal, Self

EXIT_CODES: Final[Mapping[int, str]] = {
    0: "everything converted, sent, found; `verify`: clean",
    1: "a bug in migrate (with a traceback: please report it)",
    2: "the command line is wrong, or its options exclude each other",
    3: "images failed or are damaged, others are written; `verify`: mismatches",
    4: "no image could be read from the sources",
    5: "the target failed: disk full, registry refused",
    130: "interrupted; what is complete stays valid, run again to continue",
}
"""The exit codes of all commands, for every `--help`, the manual pages and docs/reference/cli.md."""

Scope = Literal["image", "source", "run"]


class MigrateError(Exception):
    """The base of all errors that a user's input, disk or network can cause.

    `layer` is the legacy ID of the faulty layer; `code` is the value of the report's field `error`, and does not
    change.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 3
    scope: ClassVar[Scope] = "image"

    def __init__(self, message: str, *, layer: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.layer = layer

    def at_layer(self, layer: str, context: str = "") -> Self:
        """The same error for the layer with this legacy ID. `context` is put before the message."""
        return type(self)(context + self.message, layer=layer)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.layer))


def _rebuild(kind: type[MigrateError], message: str, layer: str | None) -> MigrateError:
    return kind(message, layer=layer)


class UsageError(MigrateError):
    """The command line is wrong, or its options exclude each other."""

    code = "usage"
    exit_code = 2
    scope = "run"


# --- sources -----------------------------------------------------------------------------------------------------


class SourceError(MigrateError):
    """A source, or the part of it that one image needs, cannot be read."""

    code = "unreadable"


class SourceUnreadableError(SourceError):
    """The whole source cannot be read."""

    code = "source-unreadable"
    exit_code = 4
    scope = "source"


class UnrecognisedSourceError(SourceUnreadableError):
    """The content is of no kind that is read."""

    code = "unrecognised"


class UnfitSourceError(SourceUnreadableError):
    """A source of Docker's in a form that cannot be converted. The message has advice."""

    code = "unfit"


class NoImageError(SourceUnreadableError):
    """The source is of a known kind, but has no image."""

    code = "no-image"


class AmbiguousSourceError(SourceUnreadableError):
    """The source may be of several types, or has layers of several storage drivers. The user has to choose."""

    code = "ambiguous"


class PermissionSourceError(SourceUnreadableError):
    """Files of the source may not be read by this user."""

    code = "permission"


class TruncatedError(SourceError):
    """The bytes end too early."""

    code = "truncated"


class DamagedError(SourceError):
    """The bytes do not have their format."""

    code = "damaged"


class DocumentError(SourceError):
    """A JSON document is malformed, or a field is missing or has the wrong type."""

    code = "bad-document"


class LimitError(SourceError):
    """An input exceeds a limit, most of which are in `migrate.blobio.limits`."""

    code = "limit"


class MissingLayerError(SourceError):
    """A layer's bytes are not in the source."""

    code = "missing-layer"


class MissingContentError(SourceError):
    """A layer's documents are in the source, but not its bytes."""

    code = "missing-layer"


class UnsupportedError(SourceError):
    """The input is of a known kind that cannot be converted."""

    code = "unsupported"


class PayloadRestartError(SourceError):
    """A layer's stream cannot be completed in this form. Opening the payload again gives the next best form.

    Raised by `read()` of a payload whose source has several forms of it (tar-split whose CRC does not match).
    """

    code = "payload-restart"


# --- chain, integrity, compose -----------------------------------------------------------------------------------


class ChainError(MigrateError):
    """The parents of an image do not lead to a base."""

    code = "chain"


class ParentCycleError(ChainError):
    code = "parent-cycle"


class MissingParentError(ChainError):
    code = "missing-parent"


class ConflictingLayerError(ChainError):
    code = "conflicting-json"


class IntegrityError(MigrateError):
    """Bytes do not have the digest, size or checksum that a document states."""

    code = "integrity"


class NotExactError(IntegrityError):
    """`--strict`: a layer's bytes are not certain to be Docker's."""

    code = "not-exact"


class ComposeError(MigrateError):
    """A config or manifest cannot be made from what the source has."""

    code = "compose"


class ConflictError(MigrateError):
    """Two images claim one reference and `--on-conflict fail` was given."""

    code = "conflict"
    scope = "run"


# --- target ------------------------------------------------------------------------------------------------------


class TargetError(MigrateError):
    """The target cannot be written: the disk is full, a registry refuses, the target is of another kind."""

    code = "target"
    exit_code = 5
    scope = "run"


class InterruptedRunError(MigrateError):
    """The user or the system stopped the run."""

    code = "interrupted"
    exit_code = 130
    scope = "run"
