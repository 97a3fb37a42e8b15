"""Configuration files as typed objects: `load_image` for one device, `load_service` for the host."""

from obd.config.check_service import named_files, service_warnings
from obd.config.effective import Setting, effective_settings
from obd.config.errors import ConfigError
from obd.config.image import (
    Download,
    ImageConfig,
    Lower,
    Merkle,
    Upper,
    check_image,
    is_digest,
    load_image,
    parse_image,
)
from obd.config.kind import is_service, load_any
from obd.config.service import (
    DEFAULT_CREDENTIAL_FILE,
    DEFAULT_SERVICE_FILE,
    CacheConfig,
    CredentialConfig,
    LogConfig,
    RegistryConfig,
    ServiceConfig,
    load_service,
    parse_service,
)

__all__ = [
    "DEFAULT_CREDENTIAL_FILE",
    "DEFAULT_SERVICE_FILE",
    "CacheConfig",
    "ConfigError",
    "CredentialConfig",
    "Download",
    "ImageConfig",
    "LogConfig",
    "Lower",
    "Merkle",
    "RegistryConfig",
    "ServiceConfig",
    "Setting",
    "Upper",
    "check_image",
    "effective_settings",
    "is_digest",
    "is_service",
    "load_any",
    "load_image",
    "load_service",
    "named_files",
    "parse_image",
    "parse_service",
    "service_warnings",
]
