"""All checks in their order; one that fails itself is a finding, and ends no other."""

from collections.abc import Callable, Iterator
from contextlib import suppress

from obd.config import ServiceConfig, load_service
from obd.doctor import Finding
from obd.doctor.configuration import check_images, check_service
from obd.doctor.daemon import check_daemon
from obd.doctor.disk import check_disk
from obd.doctor.kernel import check_kernel
from obd.doctor.registries import check_registries
from obd.doctor.rights import check_rights
from obd.doctor.system import check_clock, check_limits
from obd.errors import line_of


def examine_all(images: list[str], service: str | None) -> list[Finding]:
    """See `obd.doctor.examine`."""
    config: ServiceConfig | None = None
    with suppress(OSError):  # `check_service` tells why
        config = load_service(service)
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("kernel", check_kernel),
        ("rights", check_rights),
        ("daemon", check_daemon),
        ("configuration", lambda: check_service(service)),
        ("configuration", lambda: check_images(images)),
        ("clock", check_clock),
        ("limits", check_limits),
    ]
    if config is not None:
        settings = config
        checks += [
            ("disk", lambda: check_disk(settings)),
            ("registry", lambda: check_registries(images, settings)),
        ]
    found = []
    for area, check in checks:
        try:
            found += list(check())
        except Exception as error:
            found.append(Finding("warning", area, f"cannot be looked at: {line_of(error)}"))
    return found
