"""How much of an image, which may be made by a stranger, is walked through."""

from typing import Final

# Directories within directories; the file system in the image has no bound of its own.
MAX_DEPTH: Final = 400
# Files of one image: what a list of paths for prefetching may name, too.
MAX_WALKED: Final = 4 << 20
# Bytes of a file read at a time.
PIECE_BYTES: Final = 4 << 20
