"""The configuration that is installed: understood wholly, without a warning, and what differs from none."""

from pathlib import Path

from obd.config import ServiceConfig, effective_settings, load_service, service_warnings
from obd.config.strict_json import read_object

ETC = Path(__file__).resolve().parents[2] / "etc" / "overlaybd"


def test_installed_configuration_is_the_defaults_with_caches_and_downloads_on() -> None:
    root = read_object(str(ETC / "overlaybd.json"))
    installed = load_service(ETC / "overlaybd.json")
    assert list(service_warnings(installed)) == []
    builtin = {one.key: one.value for one in effective_settings(ServiceConfig(), {})}
    different = {
        one.key: one.value for one in effective_settings(installed, root) if one.value != builtin[one.key]
    }
    assert different == {
        "gzipCacheConfig.enable": True,
        "download.enable": True,
        "download.delay": 600,
    }
