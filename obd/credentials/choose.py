"""The source of credentials that a service configuration asks for."""

from typing import TYPE_CHECKING, Final

from obd.config import DEFAULT_CREDENTIAL_FILE, CredentialConfig
from obd.config.check_service import server_url

if TYPE_CHECKING:
    from obd.credentials.credential import CredentialSource

# Where the kubelet looks for a configuration of Docker's client.
_OF_KUBELET: Final = "/var/lib/kubelet/config.json"


def source_of(settings: CredentialConfig) -> "CredentialSource | None":
    """The source for `settings`; None for anonymous access. Asks nothing and reads nothing yet."""
    mode, path = settings.mode, settings.path
    if mode == "docker":
        from obd.credentials.docker import DockerCredentials

        return DockerCredentials(path)
    if mode == "containerd":
        from obd.credentials.containerd import ContainerdCredentials

        return ContainerdCredentials(path)
    if mode == "node":
        return _of_node(path, settings.bin_dir)
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


def _of_node(providers: str, bin_dir: str) -> "CredentialSource":
    """All that a node has: our file, containerd's, Docker's, the kubelet's, and the kubelet's providers."""
    from obd.credentials.chain import ChainCredentials
    from obd.credentials.containerd import ContainerdCredentials
    from obd.credentials.docker import DockerCredentials
    from obd.credentials.file import FileCredentials
    from obd.credentials.kubelet import KubeletCredentials

    sources: list[CredentialSource] = [
        FileCredentials(DEFAULT_CREDENTIAL_FILE, optional=True),
        ContainerdCredentials(optional=True),
        DockerCredentials(),
        FileCredentials(_OF_KUBELET, optional=True),
    ]
    if providers:
        sources.append(KubeletCredentials(providers, bin_dir))
    return ChainCredentials(sources)
