"""The source of credentials that a service configuration asks for."""

from typing import TYPE_CHECKING

from obd.config import DEFAULT_CREDENTIAL_FILE, CredentialConfig
from obd.config.check_service import server_url

if TYPE_CHECKING:
    from obd.credentials.credential import CredentialSource


def source_of(settings: CredentialConfig) -> "CredentialSource | None":
    """The source for `settings`; None for anonymous access. Asks nothing and reads nothing yet."""
    mode, path = settings.mode, settings.path
    if mode == "docker":
        from obd.credentials.docker import DockerCredentials

        return DockerCredentials(path)
    if not path:
        return None
    if mode == "kubelet":
        from obd.credentials.kubelet import KubeletCredentials

        return KubeletCredentials(path, settings.bin_dir)
    if mode in ("http", "https"):
        from obd.credentials.web import WebCredentials

        return WebCredentials(
            server_url(settings),
            timeout_s=settings.timeout_s,
            raw_url=settings.raw_url,
            ca_file=settings.server_ca_path,
            cert_file=settings.client_cert_path,
            key_file=settings.client_key_path,
        )
    if mode == "uds":
        from obd.credentials.uds import SocketCredentials

        return SocketCredentials(path, timeout_s=settings.timeout_s, raw_url=settings.raw_url)
    from obd.credentials.file import FileCredentials

    return FileCredentials(path, optional=path == DEFAULT_CREDENTIAL_FILE)
