"""The service configuration (`overlaybd.json`): what all images of a host share."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from obd.config.errors import ConfigError
from obd.config.image import Download
from obd.config.schema import (
    I32_MAX,
    I32_MIN,
    U32,
    U64,
    Table,
    build,
    choice,
    flag,
    integer,
    strings,
    table,
    tables,
    text,
)
from obd.config.strict_json import read_object

DEFAULT_SERVICE_FILE: Final = "/etc/overlaybd/overlaybd.json"
# A place to look for credentials, not a promise that the file is there.
DEFAULT_CREDENTIAL_FILE: Final = "/opt/overlaybd/cred.json"
_CREDENTIAL_MODES: Final = ("", "file", "http", "https", "uds", "docker", "kubelet", "containerd", "node")

_GIB: Final = 1 << 30
_CACHE_TYPES: Final = ("", "file", "download", "ocf")
# The daemon's log is at most this many files.
MAX_LOG_FILES: Final = 30
# As long as overlaybd waits.
MAX_OUTAGE_S: Final = 7 * 86400
_FATAL: Final = 4
_UNIX: Final = "unix:"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LogConfig(Table):
    """Log file. Levels: 0 debug, 1 info, 2 warning, 3 error, 4 fatal."""

    level: int | None = integer("logLevel", None, 0, U32)
    path: str = text("logPath")
    size_mib: int = integer("logSizeMB", 10, 0, U32)
    files: int = integer("logRotateNum", 3, I32_MIN, I32_MAX)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CacheConfig(Table):
    """The chunk cache for remote layers."""

    type: str = choice("cacheType", "", _CACHE_TYPES)
    dir: str = text("cacheDir", "/opt/overlaybd/registry_cache")
    size_gib: int = integer("cacheSizeGB", 4, 0, U32)
    refill_size_bytes: int = integer("refillSize", 262144, 0, U32)
    block_size_bytes: int = integer("blockSize", 65536, 0, U32)

    @property
    def size_bytes(self) -> int:
        """Capacity in bytes."""
        return self.size_gib * _GIB


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class GzipCacheConfig(Table):
    """The cache for decompressed targets of turboOCI layers."""

    enable: bool = flag("enable", False)
    dir: str = text("cacheDir", "/opt/overlaybd/gzip_cache")
    size_gib: int = integer("cacheSizeGB", 4, 0, U32)
    refill_size_bytes: int = integer("refillSize", 1 << 20, 0, U32)

    @property
    def size_bytes(self) -> int:
        """Capacity in bytes."""
        return self.size_gib * _GIB


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CredentialConfig(Table):
    """Where user names and passwords for registries come from. A URL may hold a secret."""

    mode: str = choice("mode", "", _CREDENTIAL_MODES)
    path: str = text("path", secret=True)
    timeout_s: int = integer("timeout", 1, 1, 600)
    client_cert_path: str = text("client_cert_path")
    client_key_path: str = text("client_key_path")
    server_ca_path: str = text("server_ca_path")
    bin_dir: str = text("bin_dir")
    raw_url: bool = flag("rawUrl", False)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class P2pConfig(Table):
    """A proxy on this host that fetches blobs from peers.

    Mode "prefix" puts its address before the URL of the blob, "proxy" uses it as HTTP proxies are used.
    """

    enable: bool = flag("enable", False)
    address: str = text("address", "http://localhost:9731/accelerator", secret=True)
    mode: str = choice("mode", "prefix", ("prefix", "proxy"))

    @property
    def url(self) -> str:
        """The address with a scheme: `http` unless it names another."""
        return self.address if "://" in self.address else f"http://{self.address}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExporterConfig(Table):
    """Metrics over HTTP. `legacy_names`: upstream's metrics beside the right ones."""

    enable: bool = flag("enable", False)
    address: str = text("address", "0.0.0.0")
    uri_prefix: str = text("uriPrefix", "/metrics")
    port: int = integer("port", 9863, 1, 65535)
    update_interval_us: int = integer("updateInterval", 60_000_000, 0, U64)
    legacy_names: bool = flag("legacyNames", True)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ApiConfig(Table):
    """The management interface (`serviceConfig`), which is at a unix socket in any case.

    `address` is "unix:PATH", or the URL of a place on the loopback interface that upstream's clients know.
    """

    enable: bool = flag("enable", False)
    address: str = text("address", "http://127.0.0.1:9862")
    token_file: str = text("tokenFile")

    @property
    def socket(self) -> str:
        """Path of the unix socket; "": the usual one."""
        return self.address.removeprefix(_UNIX) if self.address.startswith(_UNIX) else ""

    @property
    def url(self) -> str:
        """Where to listen by TCP too; "": nowhere."""
        return "" if self.address.startswith(_UNIX) else self.address


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PrefetchConfig(Table):
    """Replay of traces."""

    concurrency: int = integer("concurrency", 16, 1, I32_MAX)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CertConfig(Table):
    """TLS towards registries: certificate and key to show (both, or neither is used), and whom to trust.

    `ca_file` is trusted besides what the system trusts; `insecure` trusts anybody.
    """

    cert_file: str = text("certFile")
    key_file: str = text("keyFile")
    ca_file: str = text("caFile")
    insecure: bool = flag("insecure", False)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RegistryConfig(Table):
    """One registry: other endpoints that have the same blobs, tried in this order, and its TLS.

    A TLS member that is given counts instead of that of `certConfig`.
    """

    mirrors: tuple[str, ...] = strings("mirrors", secret=True)
    ca_file: str = text("caFile")
    cert_file: str = text("certFile")
    key_file: str = text("keyFile")
    insecure: bool = flag("insecure", False)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ServiceConfig(Table):
    """All of `overlaybd.json`. Legacy keys are fields; `log`, `cache` and `credentials` say what counts."""

    log_config: LogConfig = table("logConfig", LogConfig)
    legacy_log_level: int = integer("logLevel", 1, 0, U32)
    legacy_log_path: str = text("logPath", "/var/log/overlaybd.log")
    enable_audit: bool = flag("enableAudit", True)
    audit_path: str = text("auditPath", "/var/log/overlaybd-audit.log")
    cache_config: CacheConfig = table("cacheConfig", CacheConfig)
    legacy_cache_type: str = choice("cacheType", "file", _CACHE_TYPES[1:])
    legacy_cache_dir: str = text("registryCacheDir", "/opt/overlaybd/registry_cache")
    legacy_cache_size_gib: int = integer("registryCacheSizeGB", 4, 0, U32)
    gzip_cache: GzipCacheConfig = table("gzipCacheConfig", GzipCacheConfig)
    credential_config: CredentialConfig = table("credentialConfig", CredentialConfig)
    legacy_credential_file: str = text("credentialFilePath", DEFAULT_CREDENTIAL_FILE)
    io_engine: int | None = integer("ioEngine", None, 0, 3)
    """0 pread, 1 Linux AIO, 2 POSIX AIO, 3 io_uring; None: the fastest."""
    download: Download = table("download", Download)
    p2p: P2pConfig = table("p2pConfig", P2pConfig)
    exporter: ExporterConfig = table("exporterConfig", ExporterConfig)
    api: ApiConfig = table("serviceConfig", ApiConfig)
    prefetch: PrefetchConfig = table("prefetchConfig", PrefetchConfig)
    cert: CertConfig = table("certConfig", CertConfig)
    registries: Mapping[str, RegistryConfig] = tables("registries", RegistryConfig)
    """By host, with the port if one is in the URLs of blobs."""
    outage_timeout_s: int = integer("outageTimeout", 60, 0, MAX_OUTAGE_S)
    verify_chunks: str = choice("verifyChunks", "off", ("off", "on", "required"))
    """Whether layers are held against hash trees: where there is one, or all that have a digest."""
    enable_thread: bool = flag("enableThread", False)
    registry_fs_version: str = text("registryFsVersion", "v2")
    user_agent: str = text("userAgent")

    file: str = ""
    """Path of the file this was read from; "" for the built-in defaults."""
    unknown_keys: tuple[str, ...] = field(default=())
    """Keys found that mean nothing: ignored, but worth a warning."""

    @property
    def log(self) -> LogConfig:
        """The log settings that count: a missing level or path comes from the legacy keys.

        Unlike upstream, an empty `logConfig.logPath` does not throw away the other members. Level, size and
        number of files are brought into the range that means something.
        """
        given = self.log_config
        return replace(
            given,
            level=min(self.legacy_log_level if given.level is None else given.level, _FATAL),
            path=given.path or self.legacy_log_path,
            size_mib=max(given.size_mib, 1),
            files=min(max(given.files, 1), MAX_LOG_FILES),
        )

    @property
    def cache(self) -> CacheConfig:
        """The cache settings that count: legacy type, dir and size if `cacheConfig` has no type."""
        if self.cache_config.type:
            return self.cache_config
        return replace(
            self.cache_config,
            type=self.legacy_cache_type,
            dir=self.legacy_cache_dir,
            size_gib=self.legacy_cache_size_gib,
        )

    @property
    def credentials(self) -> CredentialConfig:
        """The credential settings that count: without a mode, the legacy file."""
        if self.credential_config.mode:
            return self.credential_config
        return replace(self.credential_config, mode="file", path=self.legacy_credential_file)


def load_service(path: str | os.PathLike[str] | None = None) -> ServiceConfig:
    """Reads and checks the service configuration.

    Without `path` it is that of the host, `DEFAULT_SERVICE_FILE`, or the built-in defaults if there is
    none; a `path` that is given must exist. Raises `ConfigError`.
    """
    if path is None:
        if not os.path.exists(DEFAULT_SERVICE_FILE):
            return ServiceConfig()
        path = DEFAULT_SERVICE_FILE
    name = os.fspath(path)
    return parse_service(read_object(name), name)


def parse_service(root: dict[str, Any], file: str = "") -> ServiceConfig:
    """The configuration in the JSON object `root`; `file` is for messages. Touches no other file."""
    from obd.config.check_service import check_service

    try:
        config, unknown = build(ServiceConfig, root)
        check_service(config)
    except ConfigError as error:
        raise ConfigError(error.what, file=file) from None
    return replace(config, file=file, unknown_keys=tuple(unknown))
