"""Which way to a block device is taken here, and why."""

from obd.attach import WAYS
from obd.attach.ways import way
from obd.errors import ObdError


def choose(via: str, service: str | None) -> tuple[str, str]:
    """The way to take if `via` is wanted, which may be "auto"; and why, in one line.

    `service`: as for `Way.missing`. Raises `ObdError` of kind "unsupported", which says what is missing.
    """
    reasons: list[str] = []
    for name in WAYS if via == "auto" else (via,):
        missing = way(name).missing(service)
        if not missing:
            why = "; ".join(reasons) or ("asked for" if via != "auto" else "the best way there is")
            return name, why
        reasons.append(f"no {name}: {missing}")
    raise ObdError("unsupported", "; ".join(reasons))
