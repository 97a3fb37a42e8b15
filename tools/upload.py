"""Sending a finished layer to a registry: `--upload` and its companions."""

from __future__ import annotations

from tools.errors import Failure, describe
from tools.progress import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from obd.push import Repository
    from tools.options import Namespace

# What `--upload` ends in; before it stands the repository.
UPLOADS = "/blobs/uploads"
KIB = 1024


class Upload:
    """The upload that the options ask for. Made before any work, so that mistakes show at once.

    Raises `Failure` for a URL, credentials or certificates that cannot be used.
    """

    def __init__(self, args: Namespace, failed: str) -> None:
        """`failed` begins the line of a failure, in upstream's words for the command."""
        self._failed = failed
        self._repository = _repository(args, failed)

    def send(self, path: str) -> str:
        """Uploads the file `path` and returns its digest. Raises `Failure`."""
        with Progress("uploading") as progress:
            try:
                return self._repository.push_file(path, progress).digest
            except OSError as error:
                raise Failure(f"{self._failed}: {describe(error)}") from None


def _repository(args: Namespace, failed: str) -> Repository:
    from obd.config.strict_json import read_object
    from obd.credentials import FileCredentials
    from obd.push import Repository
    from obd.registry import Registry
    from obd.secret import without_secrets
    from obd.tls import Tls

    url = args.upload.rstrip("/")
    if not url.startswith(("http://", "https://")) or "/v2/" not in url or not url.endswith(UPLOADS):
        shown = without_secrets(args.upload)
        raise Failure(f"{failed}: not like https://HOST/v2/REPOSITORY/blobs/uploads/: {shown}")
    credentials = None
    if args.cred_file_path:
        try:
            if not isinstance(read_object(args.cred_file_path).get("auths"), dict):
                raise ValueError(f"invalid: {args.cred_file_path}: has no object auths")
        except (OSError, ValueError) as error:
            raise Failure(f"failed to read upload cred file: {describe(error)}") from None
        credentials = FileCredentials(args.cred_file_path)
    if args.tls_key_path and not args.tls_cert_path:
        raise Failure(f"{failed}: --tls_key_path needs --tls_cert_path")
    cert = args.tls_cert_path or ""
    registry = Registry(credentials, tls=Tls(cert_file=cert, key_file=args.tls_key_path or cert))
    try:
        _ = registry.session  # reads the certificate
    except OSError as error:
        raise Failure(f"{failed}: {args.tls_cert_path}: {describe(error)}") from None
    return Repository(registry, url.removesuffix(UPLOADS), part_bytes=args.upload_bs * KIB)
