"""Files inside images, without mounting these: named, read, copied out, and compared."""

from obd.files.files import Files
from obd.files.opening import open_files

__all__ = ["Files", "open_files"]
