"""The `docker run` command for a container, from the container's record. Pure functions.

The options are those of today's `docker run`. Settings of LXC only (`--lxc-conf`) have no option.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from migrate.documents.containers import ContainerRecord, Fields
from migrate.model.legacy import is_hex_id

_TEXTS: Final = {
    "--hostname": "Hostname",
    "--domainname": "Domainname",
    "--user": "User",
    "--workdir": "WorkingDir",
    "--mac-address": "MacAddress",
    "--stop-signal": "StopSignal",
    "--ipc": "IpcMode",
    "--pid": "PidMode",
    "--uts": "UTSMode",
    "--cgroup-parent": "CgroupParent",
    "--cpuset-cpus": "CpusetCpus",
    "--cpuset-mems": "CpusetMems",
    "--volume-driver": "VolumeDriver",
}
_NUMBERS: Final = {
    "--memory": "Memory",
    "--memory-swap": "MemorySwap",
    "--memory-reservation": "MemoryReservation",
    "--kernel-memory": "KernelMemory",
    "--cpu-shares": "CpuShares",
    "--cpu-period": "CpuPeriod",
    "--cpu-quota": "CpuQuota",
    "--blkio-weight": "BlkioWeight",
}
_FLAGS: Final = {
    "--tty": "Tty",
    "--interactive": "OpenStdin",
    "--privileged": "Privileged",
    "--read-only": "ReadonlyRootfs",
    "--oom-kill-disable": "OomKillDisable",
    "--publish-all": "PublishAllPorts",
}
_LISTS: Final = {
    "--env": "Env",
    "--dns": "Dns",
    "--dns-search": "DnsSearch",
    "--dns-option": "DnsOptions",
    "--add-host": "ExtraHosts",
    "--cap-add": "CapAdd",
    "--cap-drop": "CapDrop",
    "--group-add": "GroupAdd",
    "--security-opt": "SecurityOpt",
    "--volumes-from": "VolumesFrom",
}
_DEFAULT_NETWORKS: Final = ("", "default", "bridge")
_SHORT_ID: Final = 12
"""The default host name of a container is so many digits of its ID."""
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_.-]")


def volume_names(record: ContainerRecord, kept: Iterable[str]) -> dict[str, str]:
    """A name for each volume at one of the paths `kept`: that of the record, if the user chose it; else one that
    consists of the container's name and the path. All names are different."""
    names: dict[str, str] = {}
    wanted = frozenset(kept)
    for mount in record.mounts:
        if mount.destination in wanted:
            made = f"{record.name or record.id[:_SHORT_ID]}{mount.destination.replace('/', '-')}"
            name = mount.name if mount.name and not is_hex_id(mount.name) else made
            name = _NOT_IN_NAMES.sub("-", name).strip("-._") or "volume"
            while name in names.values():
                name += "-"
            names[mount.destination] = name
    return names


def run_words(record: ContainerRecord, image: str, volumes: Mapping[str, str]) -> tuple[str, ...]:
    """The words of the command, not yet quoted for a shell. `image` is the name of the image to run.

    `volumes`: path in the container → name of the volume to mount. Any other mount of the record gets its old source.
    """
    config = record.config
    words = ["docker", "run", "--detach"]
    if record.name:
        words += ["--name", record.name]
    for option, value in _options(record, volumes):
        words += [option] if value is None else [option, value]
    entrypoint, command = config.texts("Entrypoint"), config.texts("Cmd")
    if entrypoint:
        words += ["--entrypoint", entrypoint[0]]
    return (*words, image, *entrypoint[1:], *command)


def _options(record: ContainerRecord, volumes: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """Each option with its value, None if it has none."""
    config, host = record.config, record.host
    for option, name in _FLAGS.items():
        if host.flag(name) or config.flag(name):
            yield option, None
    for option, name in _TEXTS.items():
        text = host.text(name) or config.text(name)
        if name == "CpusetCpus":
            text = text or host.text("Cpuset") or config.text("Cpuset")
        # Docker gives a container without `--hostname` the first 12 digits of its ID.
        if text and not (name == "Hostname" and text == record.id[:_SHORT_ID]):
            yield option, text
    for option, name in _NUMBERS.items():
        number = host.number(name) or config.number(name)  # up to 1.6, memory and CPU were in Config
        if number > 0 or (number and name == "MemorySwap"):  # -1: no limit
            yield option, str(number)
    network = record.host.text("NetworkMode")
    if record.config.flag("NetworkDisabled"):
        network = "none"
    if network not in _DEFAULT_NETWORKS:
        yield "--network", network
    for link in record.host.texts("Links"):
        source, _, alias = link.partition(":")
        yield "--link", f"{source.lstrip('/')}:{alias.rpartition('/')[2]}" if alias else source.lstrip("/")
    for option, name in _LISTS.items():
        for text in host.texts(name) or config.texts(name):
            yield option, text
    for mount in record.mounts:
        source = volumes.get(mount.destination) or mount.source
        mode = mount.mode or ("" if mount.writable else "ro")
        if source:
            yield "--volume", ":".join(part for part in (source, mount.destination, mode) if part)
    yield from _ports(record)
    yield from _other(host)


def _ports(record: ContainerRecord) -> Iterator[tuple[str, str]]:
    published = set()
    bindings = record.host.at("PortBindings")
    for port in bindings.names():
        for binding in bindings.rows(port):
            published.add(port)
            address, host_port = binding.text("HostIp"), binding.text("HostPort")
            # The colons of an IPv6 address would be taken for those between the parts.
            if ":" in address:
                address = f"[{address}]"
            parts = [address, host_port, port] if address else [host_port, port] if host_port else [port]
            yield "--publish", ":".join(parts)
    for port in record.config.at("ExposedPorts").names():
        if port not in published:
            yield "--expose", port


def _other(host: Fields) -> Iterator[tuple[str, str]]:
    for device in host.rows("Devices"):
        parts = [device.text("PathOnHost"), device.text("PathInContainer"), device.text("CgroupPermissions")]
        if parts[0]:
            yield "--device", ":".join(part for part in parts if part)
    for limit in host.rows("Ulimits"):
        if name := limit.text("Name"):
            yield "--ulimit", f"{name}={limit.number('Soft')}:{limit.number('Hard')}"
    log = host.at("LogConfig")
    if driver := log.text("Type"):
        yield "--log-driver", driver
    for name in log.at("Config").names():
        yield "--log-opt", f"{name}={log.at('Config').text(name)}"
    restart = host.at("RestartPolicy")
    if (policy := restart.text("Name")) and policy != "no":
        tries = restart.number("MaximumRetryCount")
        yield "--restart", f"{policy}:{tries}" if tries > 0 and policy == "on-failure" else policy
    if (swappiness := host.number("MemorySwappiness")) > 0:
        yield "--memory-swappiness", str(swappiness)
