"""Tests for a real kernel: named on the host as any others, run in a guest.

A test runs in User Mode Linux, which is there in a second, unless a marker `guest` names another kind.
`OVERLAYBD_GUESTS` names the kinds to boot instead (`uml`, `qemu`, `qemu2`, with commas); those tests that are
not marked run in each of them.
"""

import pytest

from tests.vm.boot import KINDS
from tests.vm.plugin import INSIDE, TESTS, USUAL, WANTED, Inside, Outside, kind_of


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "guest(kind): only for guests of this kind")
    if unknown := set(WANTED) - set(KINDS):
        raise pytest.UsageError(f"OVERLAYBD_GUESTS: no guests of the kind {', '.join(sorted(unknown))}")
    config.pluginmanager.register(Inside(config) if INSIDE else Outside())


@pytest.fixture(scope="session", autouse=True)
def guest(request: pytest.FixtureRequest) -> str:
    """The kind of the guest that the test runs in."""
    kind: str = request.param
    return kind


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    named = [kind for marker in metafunc.definition.iter_markers("guest") for kind in marker.args]
    kinds = [kind for kind in WANTED if kind in (named or USUAL)]
    metafunc.parametrize("guest", kinds, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unwanted = [item for item in items if TESTS in item.path.parents and not kind_of(item)]
    config.hook.pytest_deselected(items=unwanted)
    items[:] = [item for item in items if item not in unwanted]
