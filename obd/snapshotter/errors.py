"""What goes wrong with a snapshot, as containerd tells failures apart."""

from typing import Final

# The names are those of gRPC's status codes, which is what containerd looks at.
NOT_FOUND: Final = "NOT_FOUND"
ALREADY_EXISTS: Final = "ALREADY_EXISTS"
FAILED_PRECONDITION: Final = "FAILED_PRECONDITION"
INVALID_ARGUMENT: Final = "INVALID_ARGUMENT"
UNAVAILABLE: Final = "UNAVAILABLE"
DEADLINE_EXCEEDED: Final = "DEADLINE_EXCEEDED"


class SnapshotError(Exception):
    """A call that cannot be carried out. `code` is one of the constants above; the text is for people."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code: Final = code
