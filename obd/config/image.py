"""The image configuration (`config.v1.json`): how one block device is built from layers."""

import os
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

from obd.config.errors import ConfigError, shown
from obd.config.schema import I32_MAX, I32_MIN, U32, U64, Table, array, build, flag, integer, table, text
from obd.config.strict_json import read_object

# Layer tags are eight bits wide and one value is the writable layer's.
MAX_LOWERS: Final = 255
# The leaves of a layer of 64 GiB, the largest that can have a tree.
MAX_LEAVES_BYTES: Final = 24 + (32 << 20)

_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Download(Table):
    """Background download of remote layers."""

    enable: bool = flag("enable", False)
    delay_s: int = integer("delay", 300, I32_MIN, I32_MAX)
    delay_extra_s: int = integer("delayExtra", 30, I32_MIN, I32_MAX)
    max_mib_per_s: int = integer("maxMBps", 100, I32_MIN, I32_MAX)
    try_count: int = integer("tryCnt", 5, I32_MIN, I32_MAX)
    block_size_bytes: int = integer("blockSize", 262144, 0, U32)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Merkle(Table):
    """The hash tree of a layer: its root, and where its leaves are: in `file`, or a blob beside the layer."""

    root: str = text("root")
    leaves: str = text("leaves")
    size_bytes: int = integer("size", 0, 0, MAX_LEAVES_BYTES)
    file: str = text("file")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Lower(Table):
    """One read-only layer: where to look for it, locally and in the registry."""

    file: str = text("file")
    dir: str = text("dir")
    digest: str = text("digest")
    size_bytes: int = integer("size", 0, 0, U64)
    target_file: str = text("targetFile")
    target_digest: str = text("targetDigest")
    gzip_index: str = text("gzipIndex")
    merkle: Merkle | None = table("merkle", Merkle, optional=True)

    @property
    def has_target(self) -> bool:
        """True for a turboOCI layer: metadata here, file contents in another blob."""
        return bool(self.target_file or self.target_digest)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Upper(Table):
    """The writable layer; it counts only if both `index` and `data` are given."""

    # The snapshotter writes the virtual size here; the layer's own header says it.
    SILENT: ClassVar[frozenset[str]] = frozenset({"vsize"})

    index: str = text("index")
    data: str = text("data")
    target: str = text("target")
    gzip_index: str = text("gzipIndex")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ImageConfig(Table):
    """All of one image configuration. Sizes in bytes, times in seconds."""

    repo_blob_url: str = text("repoBlobUrl", secret=True)
    lowers: tuple[Lower, ...] = array("lowers", Lower)
    upper: Upper = table("upper", Upper)
    result_file: str = text("resultFile")
    download: Download | None = table("download", Download, optional=True)
    acceleration_layer: bool = flag("accelerationLayer", False)
    record_trace_path: str = text("recordTracePath")

    file: str = ""
    """Path of the file this was read from, as given; "" if none."""
    unknown_keys: tuple[str, ...] = field(default=())
    """Keys found that mean nothing, as `lowers[0].fil`: ignored, but worth a warning."""

    @property
    def writable(self) -> bool:
        """True if the device has an upper."""
        return bool(self.upper.index and self.upper.data)

    @property
    def data_lowers(self) -> tuple[Lower, ...]:
        """The lowers that hold data, bottom first: all but an acceleration layer."""
        return self.lowers[:-1] if self.acceleration_layer else self.lowers

    def blob_url(self, digest: str) -> str:
        """Where the registry has the blob `digest`; "" without `repoBlobUrl`."""
        return f"{self.repo_blob_url.rstrip('/')}/{digest}" if self.repo_blob_url else ""


def load_image(path: str | os.PathLike[str]) -> ImageConfig:
    """Reads and checks the image configuration `path`.

    Raises `ConfigError`, which names the file, the key, its value and what is allowed. Where the file says to
    which `resultFile` the outcome goes, the exception carries it, so that the failure can be reported there.
    """
    name = os.fspath(path)
    return parse_image(read_object(name), name)


def parse_image(root: dict[str, Any], file: str = "") -> ImageConfig:
    """The configuration in the JSON object `root`; `file` is for messages."""
    try:
        config, unknown = build(ImageConfig, root)
        check_image(config)
    except ConfigError as error:
        result_file = root.get("resultFile")
        raise ConfigError(
            error.what, file=file, result_file=result_file if isinstance(result_file, str) else ""
        ) from None
    return replace(config, file=file, unknown_keys=tuple(unknown))


def check_image(config: ImageConfig) -> None:
    """Refuses what is well-formed but cannot become a device. Raises `ConfigError`; touches no file."""
    lowers = config.data_lowers
    if config.acceleration_layer and config.record_trace_path:
        raise ConfigError("accelerationLayer and recordTracePath: only one of the two can be used")
    if not lowers and not config.writable:
        raise ConfigError("no layers: lowers is empty, and upper does not name both index and data")
    if len(lowers) > MAX_LOWERS:
        raise ConfigError(f"lowers: {len(lowers)} layers, at most {MAX_LOWERS} can be stacked")
    if config.repo_blob_url:
        _check_url(config.repo_blob_url)
    for position, lower in enumerate(config.lowers):
        _check_lower(lower, f"lowers[{position}]", bool(config.repo_blob_url))
    upper = config.upper
    if config.writable and os.path.abspath(upper.index) == os.path.abspath(upper.data):
        raise ConfigError(f"upper: index and data are the same file {shown(upper.data)}")
    if upper.gzip_index and not upper.target:
        raise ConfigError(f"upper.gzipIndex: {shown(upper.gzip_index)} needs upper.target")


def _check_url(url: str) -> None:
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https") or not rest.partition("/")[0]:
        raise ConfigError("repoBlobUrl: must look like https://HOST[:PORT]/v2/REPOSITORY/blobs")


def _check_lower(lower: Lower, where: str, has_url: bool) -> None:
    for key, digest in (("digest", lower.digest), ("targetDigest", lower.target_digest)):
        if digest and not is_digest(digest):
            raise ConfigError(
                f"{where}.{key}: {shown(digest)} is not allowed: must be sha256:<64 hex digits>"
            )
    if lower.gzip_index and not lower.has_target:
        raise ConfigError(f"{where}.gzipIndex: {shown(lower.gzip_index)} needs targetFile or targetDigest")
    if lower.merkle:
        _check_merkle(lower.merkle, f"{where}.merkle")
    if not lower.file and not lower.dir:
        if not lower.digest:
            raise ConfigError(f"{where}: none of file, dir and digest says where the layer is")
        if not has_url:
            raise ConfigError(f"empty repoBlobUrl: {where} has neither file nor dir, so it must be remote")
    if lower.target_digest and not lower.target_file and not has_url:
        raise ConfigError(f"empty repoBlobUrl: {where}.targetDigest is remote")


def _check_merkle(merkle: Merkle, where: str) -> None:
    for key, digest in (("root", merkle.root), ("leaves", merkle.leaves)):
        if not is_digest(digest) and (digest or key == "root"):
            raise ConfigError(
                f"{where}.{key}: {shown(digest)} is not allowed: must be sha256:<64 hex digits>"
            )
    if not merkle.leaves and not merkle.file:
        raise ConfigError(f"{where}: neither leaves nor file says where the leaves are")
    if merkle.leaves and not merkle.size_bytes:
        raise ConfigError(f"{where}.size: the leaves of a registry have a size")


def is_digest(value: str) -> bool:
    """True for `sha256:` and 64 lower-case hex digits."""
    algorithm, _, digits = value.partition(":")
    return algorithm == "sha256" and len(digits) == 64 and set(digits) <= _HEX
