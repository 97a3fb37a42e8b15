"""What a service configuration asks for together: what cannot be, and what has no effect or is unwise."""

import ipaddress
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from obd.config.errors import ConfigError, shown
from obd.config.service import (
    DEFAULT_CREDENTIAL_FILE,
    MAX_LOG_FILES,
    ApiConfig,
    CertConfig,
    CredentialConfig,
    RegistryConfig,
    ServiceConfig,
)
from obd.secret import without_secrets

_PAGE: Final = 4096
_OCF_LINES: Final = tuple(_PAGE << shift for shift in range(5))


def check_service(config: ServiceConfig) -> None:
    """Refuses what is well-formed but cannot work. Raises `ConfigError`; touches no file.

    What is switched off is not looked at: files that overlaybd's packages ship hold samples there.
    """
    cache, gzip = config.cache, config.gzip_cache
    _check_refill("cacheConfig", config.cache_config.refill_size_bytes)
    _check_refill("gzipCacheConfig", gzip.refill_size_bytes)
    new = bool(config.cache_config.type)
    _check_size("cacheConfig.cacheSizeGB" if new else "registryCacheSizeGB", cache.size_gib)
    _check_given("cacheConfig.cacheDir" if new else "registryCacheDir", cache.dir)
    if cache.type == "ocf" and cache.block_size_bytes not in _OCF_LINES:
        allowed = ", ".join(map(str, _OCF_LINES))
        raise ConfigError(
            f"cacheConfig.blockSize: {cache.block_size_bytes} is not allowed: must be one of {allowed}"
        )
    if gzip.enable:
        _check_size("gzipCacheConfig.cacheSizeGB", gzip.size_gib)
        _check_given("gzipCacheConfig.cacheDir", gzip.dir)
    _check_credentials(config.credentials)
    _check_pair("certConfig", config.cert.cert_file, config.cert.key_file)
    for host, registry in config.registries.items():
        _check_registry(host, registry)
    if config.p2p.enable:
        problem = url_problem(config.p2p.url)
        if not problem and config.p2p.mode == "proxy" and urlsplit(config.p2p.url).path not in ("", "/"):
            problem = "the address of a proxy has no path"
        if problem:
            raise ConfigError(
                f"p2pConfig.address: {_shown_url(config.p2p.address)} is not allowed: {problem}"
            )
    if config.exporter.enable:
        if not config.exporter.uri_prefix.startswith("/"):
            raise ConfigError(
                f"exporterConfig.uriPrefix: {shown(config.exporter.uri_prefix)} is not allowed: "
                "must begin with /"
            )
        _check_given("exporterConfig.address", config.exporter.address)
    if config.api.enable and (problem := _api_problem(config.api)):
        raise ConfigError(f"serviceConfig.address: {shown(config.api.address)} is not allowed: {problem}")


def service_warnings(config: ServiceConfig) -> Iterator[str]:
    """What is accepted, but does not do what it seems to, or is dangerous: lines without the file's name."""
    for key in config.unknown_keys:
        yield f"unknown key {key} is ignored"
    given = config.cache_config
    default = type(given)()
    if not given.type:
        for key, value, usual, legacy in (
            ("cacheDir", given.dir, default.dir, "registryCacheDir"),
            ("cacheSizeGB", given.size_gib, default.size_gib, "registryCacheSizeGB"),
        ):
            if value != usual:
                yield f"cacheConfig.{key} has no effect without cacheConfig.cacheType: {legacy} counts"
    credentials = config.credential_config
    if credentials.path and not credentials.mode:
        yield "credentialConfig.path has no effect without credentialConfig.mode: credentialFilePath counts"
    if credentials.mode in ("file", "http", "https", "uds") and not credentials.path:
        yield f"credentialConfig.mode {credentials.mode} without path: registries are asked anonymously"
    if not 1 <= config.log_config.files <= MAX_LOG_FILES:
        yield f"logConfig.logRotateNum: {config.log_config.files} acts as {config.log.files}"
    if config.cert.insecure:
        yield "certConfig.insecure: certificates of registries are NOT verified"
    for host, registry in config.registries.items():
        if registry.insecure:
            yield f"registries[{shown(host)}].insecure: its certificate is NOT verified"


def named_files(config: ServiceConfig) -> Iterator[tuple[str, str]]:
    """Key and path of each file that the configuration names and that has to be there for what it asks."""
    trusts: list[tuple[str, CertConfig | RegistryConfig]] = [("certConfig", config.cert)]
    trusts += [(f"registries[{shown(host)}]", registry) for host, registry in config.registries.items()]
    found = []
    for where, tls in trusts:
        found += [(f"{where}.caFile", tls.ca_file), (f"{where}.certFile", tls.cert_file)]
        found.append((f"{where}.keyFile", tls.key_file))
    given = config.credential_config
    found.append(("credentialConfig.client_cert_path", given.client_cert_path))
    found.append(("credentialConfig.client_key_path", given.client_key_path))
    found.append(("credentialConfig.server_ca_path", given.server_ca_path))
    if config.api.enable:
        found.append(("serviceConfig.tokenFile", config.api.token_file))
    # The default credential file is a place to look.
    if given.mode not in ("http", "https") and config.credentials.path != DEFAULT_CREDENTIAL_FILE:
        key = "credentialConfig.path" if given.mode else "credentialFilePath"
        found.append((key, config.credentials.path))
    yield from ((key, path) for key, path in found if path)


def url_problem(url: str, schemes: tuple[str, ...] = ("http", "https")) -> str:
    """What is wrong with a URL that names an endpoint; "" if nothing is. Says nothing of its content."""
    allowed = f"must look like {schemes[-1]}://HOST[:PORT][/PATH]"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(c.isspace() for c in url):
        return allowed
    if parts.query or parts.fragment:
        return f"{allowed}, without query or fragment"
    return ""


def _api_problem(api: ApiConfig) -> str:
    if not api.url:
        return "" if api.socket.startswith("/") or not api.socket else "the path must begin with /"
    if problem := url_problem(api.url, ("http",)):
        return f"{problem}, or unix:PATH"
    host = urlsplit(api.url).hostname or ""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    return "" if loopback else "only on the loopback interface (127.0.0.1, [::1]), or unix:PATH"


def _shown_url(url: str) -> str:
    return "(hidden)" if "@" in url and "://" not in url else shown(without_secrets(url))


def _check_refill(where: str, size: int) -> None:
    if size < _PAGE or size & (size - 1):
        raise ConfigError(
            f"{where}.refillSize: {size} is not allowed: must be a power of two from {_PAGE} on"
        )


def _check_size(key: str, size_gib: int) -> None:
    if size_gib < 1:
        raise ConfigError(f"{key}: {size_gib} is not allowed: must be at least 1")


def _check_given(key: str, value: str) -> None:
    if not value.strip():
        raise ConfigError(f"{key}: {shown(value)} is not allowed: must not be empty")


def _check_pair(where: str, cert_file: str, key_file: str) -> None:
    for have, value, lack in (("certFile", cert_file, "keyFile"), ("keyFile", key_file, "certFile")):
        if value and not (cert_file and key_file):
            raise ConfigError(
                f"{where}.{have}: {shown(value)} needs {where}.{lack}: both must be given (the same file may "
                "hold both)"
            )


def _check_credentials(settings: CredentialConfig) -> None:
    if settings.mode in ("http", "https") and settings.path:
        # A query is allowed here: it may tell the server who asks.
        problem = url_problem(server_url(settings).partition("?")[0])
        if not problem and settings.mode == "https" and not server_url(settings).startswith("https:"):
            problem = "must begin with https:// for the mode https"
        if problem:
            raise ConfigError(f"credentialConfig.path: {_shown_url(settings.path)} is not allowed: {problem}")
    if settings.client_key_path and not settings.client_cert_path:
        raise ConfigError(
            f"credentialConfig.client_key_path: {shown(settings.client_key_path)} "
            "needs credentialConfig.client_cert_path"
        )
    if settings.mode == "kubelet" or (settings.mode == "node" and (settings.path or settings.bin_dir)):
        for key, value in (("path", settings.path), ("bin_dir", settings.bin_dir)):
            if not value:
                raise ConfigError(
                    f'credentialConfig.{key}: "" is not allowed: providers of the kubelet need it'
                )


def server_url(settings: CredentialConfig) -> str:
    """The URL of a credential server: without a scheme in `path`, that of the mode."""
    return settings.path if "://" in settings.path else f"{settings.mode}://{settings.path}"


def _check_registry(host: str, registry: RegistryConfig) -> None:
    where = f"registries[{shown(host)}]"
    if url_problem(f"http://{host}") or urlsplit(f"http://{host}").netloc != host or "@" in host:
        raise ConfigError(f"{where}: the name is not allowed: must be HOST or HOST:PORT")
    _check_pair(where, registry.cert_file, registry.key_file)
    for position, mirror in enumerate(registry.mirrors):
        problem = url_problem(mirror)
        if not problem and "@" in urlsplit(mirror).netloc:
            problem = "must hold no user: credentials come from credentialConfig"
        if problem:
            raise ConfigError(f"{where}.mirrors[{position}]: {_shown_url(mirror)} is not allowed: {problem}")
