"""The configuration that is installed: understood wholly, and what counts without any."""

from pathlib import Path

from obd.config import ServiceConfig, load_service

ETC = Path(__file__).resolve().parents[2] / "etc" / "overlaybd"


def test_installed_configuration_says_the_defaults() -> None:
    installed = load_service(ETC / "overlaybd.json")
    builtin = ServiceConfig()
    assert installed.unknown_keys == ()
    assert installed.cache == builtin.cache
    assert installed.credentials == builtin.credentials
    assert installed.log == builtin.log
