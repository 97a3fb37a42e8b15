"""The daemon behind the kernel's SCSI targets: one process that serves the images of all TCMU backstores."""

from obd.daemon.daemon import Daemon

__all__ = ["Daemon"]
