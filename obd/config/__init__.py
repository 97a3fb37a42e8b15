"""Configuration files as typed objects: `load_image` for one device, `load_service` for the host."""

from obd.config.errors import ConfigError
from obd.config.image import (
    Download,
    ImageConfig,
    Lower,
    Upper,
    check_image,
    is_digest,
    load_image,
    parse_image,
)
from obd.config.service import (
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
    "DEFAULT_SERVICE_FILE",
    "CacheConfig",
    "ConfigError",
    "CredentialConfig",
    "Download",
    "ImageConfig",
    "LogConfig",
    "Lower",
    "RegistryConfig",
    "ServiceConfig",
    "Upper",
    "check_image",
    "is_digest",
    "load_image",
    "load_service",
    "parse_image",
    "parse_service",
]
