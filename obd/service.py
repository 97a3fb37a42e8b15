"""What the images of one process share: service configuration, registries and credentials, chunk caches."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import obdcore
from obd.config import (
    ConfigError,
    Download,
    Lower,
    ServiceConfig,
    load_service,
    service_warnings,
)

if TYPE_CHECKING:
    from obd.credentials import CredentialSource
    from obd.registry import Registry

_log: Final = logging.getLogger("overlaybd.service")


class Service:
    """Opens remote layers. Before the first one nothing is created: a local image needs none of it."""

    def __init__(self, config: ServiceConfig | str | os.PathLike[str] | None = None) -> None:
        """`config` may be the path of a service configuration; None means the host's, or the defaults."""
        self._config = config if isinstance(config, ServiceConfig) else load_service(config)
        self._path: Final = os.path.abspath(self._config.file) if self._config.file else None
        self._registry: Registry | None = None
        # All that were made: devices keep that with which they were opened.
        self._registries_made: Final[weakref.WeakSet[Registry]] = weakref.WeakSet()
        self._download = self.config.download
        self._download_failure = ""
        self._lock = threading.Lock()
        for line in service_warnings(self.config):
            _log.warning("%s: %s", self.config.file or "service configuration", line)

    @property
    def config(self) -> ServiceConfig:
        """The configuration that counts now."""
        return self._config

    def read(self) -> ServiceConfig:
        """The configuration as its file says it now; without one, that of the host. Raises `ConfigError`."""
        return load_service(self._path)

    def adopt(self, new: ServiceConfig) -> None:
        """Lets `new` count, but for what only a restart can change. Raises `OSError`; then nothing changes.

        Devices that are open get its credentials; endpoints and certificates are for those opened later.
        """
        with self._lock:
            old = self._config
            new = replace(
                new,
                cache_config=old.cache_config,
                legacy_cache_type=old.legacy_cache_type,
                legacy_cache_dir=old.legacy_cache_dir,
                legacy_cache_size_gib=old.legacy_cache_size_gib,
                gzip_cache=old.gzip_cache,
                api=old.api,
                exporter=replace(new.exporter, legacy_names=old.exporter.legacy_names),
            )
            keys = ("credentials", "cert", "registries", "p2p", "user_agent")
            if any(getattr(old, key) != getattr(new, key) for key in keys):
                credentials = _credentials(new)
                fresh = _registry(new, credentials, p2p=True) if self._registry else None
                for registry in self._registries_made:
                    registry.use(credentials)
                if fresh is not None:
                    self._keep(fresh)
            self._config = new

    def download_defaults(self) -> Download:
        """The object `download` as the file says it now, for a device that is being opened.

        A file that cannot be read, or is wrong by now, leaves what was good last, and a warning.
        """
        if self.config.file:
            try:
                self._download = load_service(self.config.file).download
                self._download_failure = ""
            except ConfigError as error:
                if str(error) != self._download_failure:
                    self._download_failure = str(error)
                    _log.warning("%s: the settings of background download stay as they were", error)
        return self._download

    def blob(self, url: str, lower: Lower) -> obdcore.RemoteBlob:
        """The layer `lower` at `url` of a registry, read through the cache. Raises `OSError`."""
        from obd.caches import layer_media

        settings, cache = self.config.cache, self.cache()
        media = layer_media(settings, lower)
        through = None if settings.type == "download" and media is None else cache
        try:
            tree = self.tree(url, lower)
            return self._registries().open_blob(
                url, size=lower.size_bytes, cache=through, media=media, tree=tree
            )
        finally:
            for line in cache.notices():
                _log.warning("%s", line)

    def tree(self, url: str, lower: Lower) -> obdcore.MerkleTree | None:
        """What the bytes of a layer are held against, if anything; `url` as for `blob`. Raises `OSError`."""
        from obd.trees import wanted_tree

        mode, settings = self.config.verify_chunks, self.config.cache
        if mode == "off" or (lower.merkle is None and mode == "on"):
            return None
        through = self.cache() if url and settings.type != "download" else None
        return wanted_tree(mode, lower, url, self._registries(), through)

    def cache(self) -> obdcore.ChunkCache:
        """The chunk cache of the configured directory, which is created if need be. Raises `OSError`."""
        from obd.caches import chunk_cache

        return chunk_cache(self.config.cache)

    def gzip_cache(self) -> obdcore.ChunkCache | None:
        """The cache for decompressed targets of turboOCI layers, if one is configured. Raises `OSError`."""
        from obd.caches import gzip_cache

        return gzip_cache(self.config.gzip_cache) if self.config.gzip_cache.enable else None

    def is_media(self, lower: Lower) -> bool:
        """Whether a layer is cached in the very file in its directory that a download makes."""
        from obd.caches import layer_media

        return layer_media(self.config.cache, lower) is not None

    def registry(self) -> Registry:
        """The dialogue with registries that the configuration asks for."""
        return self._registries()

    def _registries(self) -> Registry:
        with self._lock:
            if self._registry is None:
                self._keep(self.make_registry(self.credentials(), p2p=True))
            assert self._registry is not None
            return self._registry

    def _keep(self, registry: Registry) -> None:
        self._registry = registry
        self._registries_made.add(registry)

    def make_registry(
        self,
        credentials: CredentialSource | None,
        *,
        ca_file: str = "",
        insecure: bool = False,
        p2p: bool = False,
    ) -> Registry:
        """Registries as the configuration has them; `ca_file` and `insecure` count before it, for all hosts.

        `p2p`: through the P2P proxy too, if there is one.
        """
        return _registry(self.config, credentials, ca_file=ca_file, insecure=insecure, p2p=p2p)

    def credentials(self) -> CredentialSource | None:
        """Where credentials for registries come from, None for anonymous access."""
        return _credentials(self.config)


def _registry(
    config: ServiceConfig,
    credentials: CredentialSource | None,
    *,
    ca_file: str = "",
    insecure: bool = False,
    p2p: bool = False,
) -> Registry:
    from obd.endpoints import P2p
    from obd.registry import Registry
    from obd.tls import Tls

    cert = config.cert
    own = Tls(ca_file or cert.ca_file, cert.cert_file, cert.key_file, insecure or cert.insecure)
    hosts = {}
    for host, registry in config.registries.items():
        shown = (registry.cert_file, registry.key_file)
        shown = shown if all(shown) else (own.cert_file, own.key_file)
        tls = Tls(ca_file or registry.ca_file or own.ca_file, *shown, registry.insecure or own.insecure)
        if tls != own:
            hosts[host] = tls
    return Registry(
        credentials,
        user_agent=config.user_agent,
        tls=own,
        hosts=hosts,
        mirrors={host: registry.mirrors for host, registry in config.registries.items()},
        p2p=P2p(config.p2p.url, config.p2p.mode) if p2p and config.p2p.enable else None,
    )


def _credentials(config: ServiceConfig) -> CredentialSource | None:
    from obd.credentials.choose import source_of

    return source_of(config.credentials)
