"""What manifests, layouts and archives may hold at most."""

from typing import Final

# Registries take manifests of 4 MiB; configurations are of the same kind.
MAX_MANIFEST_BYTES: Final = 4 << 20
# Values in values of a manifest's JSON. Real ones have 6.
MAX_DEPTH: Final = 64
# File systems of Linux stack 500 layers at most, overlaybd 255; what is more is no image.
MAX_LAYERS: Final = 1024
# Entries of an index: platforms and what belongs to them, or the referrers of an image.
MAX_MANIFESTS: Final = 4096
# Manifests and indexes of one name together, which a copy holds until all blobs are there. Real ones have
# a few KiB for each platform.
MAX_MANIFESTS_BYTES: Final = 64 << 20
# Indexes in indexes.
MAX_INDEX_DEPTH: Final = 4
# 1 PiB: no blob is larger, and no sum of sizes overflows anything.
MAX_BLOB_BYTES: Final = 1 << 50
MAX_TEXT_CHARACTERS: Final = 64 << 10
# Members of an archive, which are all remembered; their extended headers.
MAX_MEMBERS: Final = 64 << 10
MAX_HEADER_BYTES: Final = 1 << 20
# Links that lead to links within an archive.
MAX_LINKS: Final = 8
