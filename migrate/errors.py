"""One tree of exceptions. Each family has an exit code and a scope.

The scope is what is lost: one image ("image"), one whole source ("source") or the run ("run").
The CLI turns an error into an exit code; nothing below the CLI prints or exits.
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
"""What the exit codes of all commands mean: in every `--help`, in the manual pages and in docs/reference/cli.md."""

Scope = Literal["image", "source", "run"]


class MigrateError(Exception):
    """The base of every error that a user's input, disk or network can cause.

    `layer` is the legacy ID of the layer at fault; `code` is a stable word for the report's `error` field.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 3
    scope: ClassVar[Scope] = "image"

    def __init__(self, message: str, *, layer: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.layer = layer

    def at_layer(self, layer: str, context: str = "") -> Self:
        """The same error of the layer with this legacy ID; `context` goes before its message."""
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
    """Nothing of the source can be read."""

    code = "source-unreadable"
    exit_code = 4
    scope = "source"


class UnrecognisedSourceError(SourceUnreadableError):
    """No reader is for this kind of content."""

    code = "unrecognised"


class UnfitSourceError(SourceUnreadableError):
    """Something of Docker in a form that cannot be converted as it is; the message has what to do."""

    code = "unfit"


class NoImageError(SourceUnreadableError):
    """The source is of a known kind, and holds no image."""

    code = "no-image"


class AmbiguousSourceError(SourceUnreadableError):
    """Two readers (or two storage drivers) claim the source; the user has to choose."""

    code = "ambiguous"


class PermissionSourceError(SourceUnreadableError):
    """Files of the source may not be read by this user."""

    code = "permission"


class TruncatedError(SourceError):
    """The bytes end before they should."""

    code = "truncated"


class DamagedError(SourceError):
    """The bytes are there but are not what their format requires."""

    code = "damaged"


class DocumentError(SourceError):
    """A JSON document is malformed, or lacks or mistypes a field."""

    code = "bad-document"


class LimitError(SourceError):
    """An input goes over a named limit of `migrate.blobio.limits`."""

    code = "limit"


class MissingLayerError(SourceError):
    """A layer's bytes are not in the source."""

    code = "missing-layer"


class MissingContentError(SourceError):
    """A layer's documents are in the source, but not its bytes."""

    code = "missing-layer"


class UnsupportedError(SourceError):
    """The input is understood but cannot be converted."""

    code = "unsupported"


class PayloadRestartError(SourceError):
    """A layer's stream cannot be completed in this form; opening the payload again gives its next best form.

    Raised by `read()` of a payload opened from a source that has a fallback (tar-split whose CRC does not match).
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
    """Bytes do not have the digest, size or checksum that a document names."""

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
    """The target cannot be written: disk full, refused, not ours."""

    code = "target"
    exit_code = 5
    scope = "run"


class InterruptedRunError(MigrateError):
    """The user or the system stopped the run."""

    code = "interrupted"
    exit_code = 130
    scope = "run"
