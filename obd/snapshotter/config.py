"""The snapshotter's configuration, `/etc/overlaybd-snapshotter/config.json`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Final

from obd.config.errors import ConfigError
from obd.config.strict_json import read_object
from obd.snapshotter.errors import SnapshotError
from obd.snapshotter.quota import size_bytes

DEFAULT_FILE: Final = "/etc/overlaybd-snapshotter/config.json"
DEFAULT_ROOT: Final = "/var/lib/containerd/io.containerd.snapshotter.v1.overlaybd"
DEFAULT_ADDRESS: Final = "/run/overlaybd-snapshotter/overlaybd.sock"

MODES: Final = ("overlayfs", "dir", "dev")
WAYS: Final = ("auto", "tcmu", "ublk", "nbd", "fuse")
FS_TYPES: Final = ("ext4", "xfs", "f2fs", "ntfs", "erofs")
LEVELS: Final = ("trace", "debug", "info", "warn", "warning", "error", "fatal", "panic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """How a registry is spoken to. An insecure one by plain HTTP."""

    host: str
    insecure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """Where Prometheus finds the metrics."""

    enable: bool = False
    uri_prefix: str = "/metrics"
    port: int = 9863


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotterConfig:
    """All of the configuration. Keys that only upstream's program has use for are taken and mean nothing."""

    root: str = DEFAULT_ROOT
    address: str = DEFAULT_ADDRESS
    verbose: str = "info"
    rw_mode: str = "overlayfs"
    auto_remove_dev: bool = False
    async_remove: bool = False
    writable_layer_type: str = "append"
    default_fs_type: str = "ext4"
    rootfs_quota: str = ""
    """How much a container may write to an overlay, such as `20g`; "": as much as there is room."""
    runtime_type: str = "containerd"
    mirrors: tuple[Mirror, ...] = ()
    turbo_fs_types: tuple[str, ...] = ("erofs", "ext4")
    exporter: Exporter = field(default_factory=Exporter)
    containerd: str = "/run/containerd/containerd.sock"
    """Of ours: the socket of containerd, which is asked where layers come from; "": it is not."""
    attach: str = "auto"
    """Of ours: the way by which devices are attached."""
    service: str = ""
    """Of ours: the service configuration of devices that overlaybd-tcmu does not serve; "" for the host's."""
    ignored: tuple[str, ...] = ()
    """Keys that ask for what this program does not do."""
    convert_layers: bool = False
    """Of ours: ordinary layers of images that are used are converted in the background."""
    device_timeout_s: int = 120
    """Of ours: how long a device may take to come up."""


# Key of the file: name of the field, and what it must be.
_KEYS: Final[dict[str, tuple[str, type, tuple[str, ...]]]] = {
    "root": ("root", str, ()),
    "address": ("address", str, ()),
    "verbose": ("verbose", str, LEVELS),
    "rwMode": ("rw_mode", str, MODES),
    "autoRemoveDev": ("auto_remove_dev", bool, ()),
    "asyncRemove": ("async_remove", bool, ()),
    "writableLayerType": ("writable_layer_type", str, ("append", "sparse")),
    "defaultFsType": ("default_fs_type", str, FS_TYPES),
    "rootfsQuota": ("rootfs_quota", str, ()),
    "runtimeType": ("runtime_type", str, ("containerd", "docker")),
    "containerdAddress": ("containerd", str, ()),
    "attach": ("attach", str, WAYS),
    "serviceConfig": ("service", str, ()),
    "convertLayers": ("convert_layers", bool, ()),
    "deviceTimeout": ("device_timeout_s", int, ()),
}
# What else upstream's file may hold, and what of it asks for nothing.
_OTHERS: Final = frozenset(
    (
        "mirrorRegistry",
        "turboFsType",
        "exporterConfig",
        "logReportCaller",
        "tenant",
    )
)


_IGNORED: Final[dict[str, object]] = {"tenant": -1}


def load(path: str) -> SnapshotterConfig:
    """Reads and checks the file `path`; without one at the default place all is as by default.

    Raises `ConfigError`, which names the file, the key and what is allowed.
    """
    if path == DEFAULT_FILE and not os.path.exists(path):
        return SnapshotterConfig()
    try:
        return parse(read_object(path))
    except ConfigError as error:
        raise ConfigError(error.what, file=path) from None


def parse(root: dict[str, Any]) -> SnapshotterConfig:
    """The configuration in a JSON object. Raises `ConfigError`."""
    values: dict[str, Any] = {}
    for key, value in root.items():
        if key in _KEYS:
            name, kind, allowed = _KEYS[key]
            values[name] = _checked(key, value, kind, allowed)
        elif key not in _OTHERS:
            raise ConfigError(f"{key}: no such key")
    if mirrors := root.get("mirrorRegistry"):
        values["mirrors"] = tuple(_mirror(each) for each in _checked("mirrorRegistry", mirrors, list))
    if types := root.get("turboFsType"):
        known = tuple(
            _checked("turboFsType", each, str, FS_TYPES) for each in _checked("turboFsType", types, list)
        )
        values["turbo_fs_types"] = known + tuple(each for each in ("ext4", "erofs") if each not in known)
    if exporter := root.get("exporterConfig"):
        found = _checked("exporterConfig", exporter, dict)
        values["exporter"] = Exporter(
            enable=_checked("exporterConfig.enable", found.get("enable", False), bool),
            uri_prefix=_checked("exporterConfig.uriPrefix", found.get("uriPrefix", "/metrics"), str),
            port=_checked("exporterConfig.port", found.get("port", 9863), int),
        )
    values["ignored"] = tuple(key for key, nothing in _IGNORED.items() if root.get(key, nothing) != nothing)
    config = SnapshotterConfig(**values)
    for key, value in (("root", config.root), ("address", config.address)):
        if not os.path.isabs(value):
            raise ConfigError(f"{key}: {value!r} is not allowed: must be an absolute path")
    try:
        size_bytes(config.rootfs_quota, "rootfsQuota")
    except SnapshotError as error:
        raise ConfigError(str(error)) from None
    if not 1 <= config.device_timeout_s <= 3600:
        raise ConfigError(
            f"deviceTimeout: {config.device_timeout_s} is not allowed: must be 1 to 3600 (seconds)"
        )
    return config


def _mirror(value: object) -> Mirror:
    found = _checked("mirrorRegistry", value, dict)
    return Mirror(
        host=_checked("mirrorRegistry.host", found.get("host"), str),
        insecure=_checked("mirrorRegistry.insecure", found.get("insecure", False), bool),
    )


def _checked(key: str, value: Any, kind: type, allowed: tuple[str, ...] = ()) -> Any:
    if type(value) is not kind:
        raise ConfigError(f"{key}: {value!r} is not allowed: must be of type {kind.__name__}")
    if allowed and value not in allowed:
        raise ConfigError(f"{key}: {value!r} is not allowed: must be one of {', '.join(allowed)}")
    return value
