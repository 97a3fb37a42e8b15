"""What a container has written to its device becomes a layer of a new image."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from obd.commit import Changes, commit_image
from obd.config import load_image
from obd.convert.work import Work
from obd.errors import ObdError
from obd.interrupted import resume
from obd.oci import open_destination
from obd.oci.registry_source import RegistrySource
from obd.reference import Reference

if TYPE_CHECKING:
    from obd.commit import Committed, Told
    from obd.oci.platform import Platform
    from obd.run.container import Container
    from obd.service import Service


def commit(
    container: Container, target: str, service: Service, platform: Platform, told: Told, *, plain_http: bool
) -> Committed:
    """Commits a container that has ended, to the image `target`. Raises `OSError`."""
    record = container.read()
    if record is None or not record.rw:
        raise ObdError("unsupported", "it has no device of its own: run it with --rw", container.name)
    config = resume(load_image(container.config))
    url = config.repo_blob_url.rstrip("/").removesuffix("/blobs")
    registry = service.registry()
    with ExitStack() as stack:
        return commit_image(
            config,
            stack.enter_context(open_destination(target, service, plain_http=plain_http, registry=registry)),
            stack.enter_context(Work()),
            Changes(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), f"obd run {container.name}"),
            told,
            base=record.image.base(service, platform),
            lowers=RegistrySource(registry, Reference(url, "", "")) if url else None,
            platform=platform,
            compress={
                "algorithm": "lz4",
                "block_size": 4096,
                "checksum": True,
                "overwrite_header": True,
                "threads": 0,
            },
        )
