"""From which image a layer is being pulled, if no label says so: containerd knows, and is asked.

A manifest that containerd has fetched carries labels: which blobs it refers to, and from which repository
it came. So images come lazily also where the client passes no reference of theirs. Source: containerd's
documentation of garbage collection and of `containerd.io/distribution.source`.
"""

from __future__ import annotations

import logging
from typing import Final

from obd.containerd.client import Containerd
from obd.errors import ObdError

_log: Final = logging.getLogger("overlaybd.snapshotter")

_SOURCE: Final = "containerd.io/distribution.source."
# A manifest's layers have labels that end in their number.
_LAYERS: Final = tuple(f"containerd.io/gc.ref.content.l.{number}" for number in range(256))
# This is asked while a layer waits to be pulled; containerd is on this machine.
_TIMEOUT_S: Final = 5.0


def repository_of(digest: str, address: str, namespace: str) -> str:
    """Where the blob `digest` comes from, as `HOST/REPOSITORY`, by containerd at a socket; "" if not known.

    Of several repositories any will do: all of them have it.
    """
    if not address:
        return ""
    try:
        with Containerd(address, namespace) as containerd:
            found = containerd.manifests_of(digest, _LAYERS, _TIMEOUT_S)
    except ObdError as error:
        _log.warning("%s: nobody says of which image it is: %s", digest, error)
        return ""
    for labels in found:
        for name, value in sorted(labels.items()):
            if name.startswith(_SOURCE) and value:
                return f"{name.removeprefix(_SOURCE)}/{value.split(',')[0]}"
    return ""
