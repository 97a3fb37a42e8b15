"""Images as OCI and Docker have them: their documents, and the places that they lie in."""

from obd.oci.descriptor import Descriptor
from obd.oci.manifest import Index, Manifest, parse_manifest
from obd.oci.open import open_destination, open_source
from obd.oci.platform import Platform, own_platform
from obd.oci.protocols import Content, ImageDestination, ImageSource, Progress

__all__ = [
    "Content",
    "Descriptor",
    "ImageDestination",
    "ImageSource",
    "Index",
    "Manifest",
    "Platform",
    "Progress",
    "open_destination",
    "open_source",
    "own_platform",
    "parse_manifest",
]
