"""The thin device of each layer, by the JSON files that Docker kept beside the pool.

Source of the format: moby v1.9.1, daemon/graphdriver/devmapper/deviceset.go. Docker 0.7 and 0.8 kept one file,
`devicemapper/json`; later versions split it into `metadata/<id>` and renamed it `json.migrated`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from migrate.blobio.limits import JSON_BYTES
from migrate.documents.json_text import load_json, shown
from migrate.errors import DocumentError, SourceError
from migrate.storage.thin.pool import MAX_DEVICE_ID, SECTOR
from migrate.storage.tree import Tree, find_folder

BASE: Final = "base"
"""The empty device of which every base image is a snapshot."""
MOST_DEVICES: Final = 1_000_000
_TRANSACTION: Final = b"transaction-metadata"
_NOT_DEVICES: Final = ("deviceset-metadata", "transaction-metadata")
_LARGEST_DEVICE: Final = 1 << 60


class DeviceRecord(Struct, frozen=True, kw_only=True):
    """`size` in bytes. `initialized`: see `driver`; `deleted`: Docker was about to remove the device."""

    device_id: int
    size: int
    transaction_id: int
    initialized: bool
    deleted: bool


class OpenTransaction(Struct, frozen=True, kw_only=True):
    """The device that was being made. If the pool did not reach `transaction_id`, Docker removes the device at its
    start."""

    transaction_id: int
    name: str
    device_id: int


class Catalogue(Struct, frozen=True, kw_only=True):
    """Name → the device's record, or the error of its document. The base device's name is `base`."""

    records: Mapping[str, DeviceRecord | SourceError]
    transaction: OpenTransaction | None = None


def read_catalogue(directory: Tree) -> Catalogue:
    """`directory` is `<root>/devicemapper`. A damaged document affects its own device only."""
    metadata = find_folder(directory, b"metadata")
    records: dict[str, DeviceRecord | SourceError] = {}
    if metadata is not None:
        for entry in metadata.entries(b""):
            name, where = os.fsdecode(entry.name), metadata.shown(entry.name)
            if entry.is_folder or name.startswith(".") or name.endswith(".migrated") or name in _NOT_DEVICES:
                continue
            try:
                records[name] = _parse_record(load_json(metadata.read(entry.name, JSON_BYTES), where), where)
            except SourceError as exc:
                records[name] = exc
    pool = find_folder(directory, b"devicemapper")
    # Docker splits `json` into `metadata/` and renames it then. So `json` is newer than `metadata/`, and
    # `json.migrated` is as old, and is needed only if `metadata/` is lost.
    unsplit = [b"json"] if records else [b"json", b"json.migrated"]
    for document in unsplit:
        if pool is not None and pool.find(document) is not None:
            records.update(_read_unsplit(pool, document))
            break
    return Catalogue(records=records, transaction=_read_transaction(metadata) if metadata is not None else None)


def _read_unsplit(pool: Tree, name: bytes) -> dict[str, DeviceRecord | SourceError]:
    path = pool.shown(name)
    document = load_json(pool.read(name, JSON_BYTES), path)
    devices = document.get("Devices") if isinstance(document, dict) else None
    if not isinstance(devices, dict) or len(devices) > MOST_DEVICES:
        raise DocumentError(f"{path}: no object of devices under `Devices`")
    found: dict[str, DeviceRecord | SourceError] = {}
    for device, value in devices.items():
        try:
            # Docker names the base device with an empty text.
            found[device or BASE] = _parse_record(value, f"{path}, device {device or BASE}")
        except DocumentError as exc:
            found[device or BASE] = exc
    return found


def _read_transaction(metadata: Tree) -> OpenTransaction | None:
    """The open transaction; None if there is none, or if it cannot be read. Docker ignores such an error, too."""
    path = metadata.shown(_TRANSACTION)
    try:
        document = load_json(metadata.read(_TRANSACTION, JSON_BYTES), path)
        number = _number(document, "open_transaction_id", path)
        device_id = _number(document, "device_id", path)
    except SourceError:
        return None
    name = document.get("device_hash")
    return OpenTransaction(
        transaction_id=number, name=name if isinstance(name, str) and name else BASE, device_id=device_id
    )


def _parse_record(document: Any, where: str) -> DeviceRecord:
    record = DeviceRecord(
        device_id=_number(document, "device_id", where),
        size=_number(document, "size", where),
        transaction_id=_number(document, "transaction_id", where, missing=0),
        initialized=_flag(document, "initialized", where),
        deleted=_flag(document, "deleted", where),
    )
    if record.device_id > MAX_DEVICE_ID:
        raise DocumentError(f"{where}: device_id {record.device_id} is over the pool's limit of {MAX_DEVICE_ID}")
    if not 0 < record.size <= _LARGEST_DEVICE or record.size % SECTOR:
        raise DocumentError(f"{where}: no device has a size of {record.size:,} bytes")
    return record


def _number(document: Any, key: str, where: str, missing: int | None = None) -> int:
    if not isinstance(document, dict):
        raise DocumentError(f"{where}: not a JSON object")
    value = document.get(key, missing)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DocumentError(f"{where}: {key} is {shown(value)} instead of a number")
    return value


def _flag(document: Any, key: str, where: str) -> bool:
    value = document.get(key, False)
    if not isinstance(value, bool):
        raise DocumentError(f"{where}: {key} is {shown(value)} instead of true or false")
    return value
