"""SCSI targets of the kernel whose commands are served here: announcements, devices, configfs.

The ring of a device is served by `obdcore.TcmuDevice`; this room brings it together with its backstore.
"""

from tcmu.configfs import Backstore, serial
from tcmu.fabric import IscsiTarget, Loopback, disk_of
from tcmu.netlink import Change, Event, Link, hold, quiet, unhold
from tcmu.recover import take_over
from tcmu.uio import Device, devices

__all__ = [
    "Backstore",
    "Change",
    "Device",
    "Event",
    "IscsiTarget",
    "Link",
    "Loopback",
    "devices",
    "disk_of",
    "hold",
    "quiet",
    "serial",
    "take_over",
    "unhold",
]
