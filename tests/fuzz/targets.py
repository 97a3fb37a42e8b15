"""All fuzz targets that are written in Python."""

from __future__ import annotations

from typing import Final

from tests.fuzz import archives, documents, wire
from tests.fuzz.target import Target

TARGETS: Final[tuple[Target, ...]] = (*documents.TARGETS, *wire.TARGETS, *archives.TARGETS)
