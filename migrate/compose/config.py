"""Composes the config of a legacy image from the v1 JSON of its top layer, its history and its diffIDs.

The bytes, and so the image ID, are those of Docker 1.10 to 24 (moby image/v1/imagev1.go, MakeConfigFromV1Config).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from migrate.documents.go_json import RawValue, encode, encode_object, fold_key
from migrate.documents.go_time import ZERO_TIME
from migrate.documents.v1_json import V1Json
from migrate.model.digest import DiffID
from migrate.model.image import Platform


class HistoryStep(Struct, frozen=True, kw_only=True):
    """One step of a config's history. `created` is RFC3339Nano. `empty_layer`: the step has no layer."""

    created: str
    author: str | None
    created_by: str | None
    comment: str | None
    empty_layer: bool

    @classmethod
    def of(cls, layer: V1Json, *, empty_layer: bool) -> HistoryStep:
        return cls(
            created=layer.created or ZERO_TIME,
            author=layer.author,
            created_by=layer.created_by,
            comment=layer.comment,
            empty_layer=empty_layer,
        )

    def members(self) -> dict[str, str | bool]:
        """Key → value in Docker's order, without empty values except `created`."""
        members: dict[str, str | bool] = {"created": self.created}
        if self.author:
            members["author"] = self.author
        if self.created_by:
            members["created_by"] = self.created_by
        if self.comment:
            members["comment"] = self.comment
        if self.empty_layer:
            members["empty_layer"] = True
        return members


def compose_config(
    carried: Mapping[str, Any],
    history: Sequence[HistoryStep],
    diff_ids: Sequence[DiffID],
    platform: Platform | None = None,
) -> bytes:
    """The config's bytes. `carried`: `LayerDocument.carried_members` of the top layer. `history` and `diff_ids` are
    base first.

    `platform`, if given, is used for a missing `os` or `architecture`. Docker does not do this, so the image ID
    changes.
    """
    head, middle, tail = config_frame(carried, has_layers=bool(diff_ids), platform=platform)
    return head + b",".join(map(encode_step, history)) + middle + b",".join(map(encode_diff_id, diff_ids)) + tail


def encode_step(step: HistoryStep) -> bytes:
    return encode(step.members())


def encode_diff_id(diff_id: DiffID) -> bytes:
    return f'"{diff_id}"'.encode("ascii")


def config_frame(
    carried: Mapping[str, Any], *, has_layers: bool, platform: Platform | None = None
) -> tuple[bytes, bytes, bytes]:
    """The bytes of the config before the steps of its history, between the steps and the diffIDs, and behind these."""
    members = carried if platform is None else fill_platform(carried, platform)
    # Keys are sorted, so the two that are made here split the others into three groups.
    before = encode_object({key: value for key, value in members.items() if key < "history"})[1:-1]
    between = encode_object({key: value for key, value in members.items() if "history" < key < "rootfs"})[1:-1]
    behind = encode_object({key: value for key, value in members.items() if key > "rootfs"})[1:-1]
    head = b"{" + before + b"," * bool(before) + b'"history":['
    middle = b"]," + between + b"," * bool(between) + b'"rootfs":{"type":"layers"'
    tail = b"}" + b"," * bool(behind) + behind + b"}"
    return (head, middle + b',"diff_ids":[', b"]" + tail) if has_layers else (head, middle, tail)


def fill_platform(members: Mapping[str, Any], platform: Platform) -> dict[str, Any]:
    """`members` of a config (`go_json.carried_values`) with the parts of `platform` that are missing in them."""
    filled = dict(members)
    if _has_no_value(members, "architecture"):
        filled["architecture"] = platform.architecture
        if platform.variant and _has_no_value(members, "variant"):
            filled["variant"] = platform.variant
    if _has_no_value(members, "os"):
        filled["os"] = platform.os
    return filled


def _has_no_value(members: Mapping[str, Any], key: str) -> bool:
    """True if Go reads no value for `key` from the encoded members. Go matches keys in any case of letters and ignores
    nulls, and the last key counts."""
    stated = [members[name] for name in sorted(members) if fold_key(name) == key]
    values = [value for value in stated if value not in (None, RawValue(b"null"))]
    return not values or values[-1] in ("", RawValue(b'""'))
