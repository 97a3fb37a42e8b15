"""The programs of the pods, as modules: they are copied into the image, not part of the package."""

import functools
import importlib.util
import sys
from types import ModuleType

from tests.deploy.chart import DEPLOY


@functools.cache
def program(name: str) -> ModuleType:
    """`deploy/image/NAME.py`."""
    spec = importlib.util.spec_from_file_location(f"deploy_image_{name}", DEPLOY / "image" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for theirs
    spec.loader.exec_module(module)
    return module
