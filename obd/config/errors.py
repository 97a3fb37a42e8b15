"""The one exception of this package: a configuration that cannot be used, told in one line."""

from typing import Final

# A value in a message is cut to this many characters: enough to recognise it, too little to flood a log.
SHOWN_CHARACTERS: Final = 60


class ConfigError(ValueError):
    """A configuration file that is missing, is not JSON, or asks for what makes no sense.

    `kind` is "not-found", "denied", "io" or "invalid", as in `obdcore.Error`; `file` the configuration file, ""
    when it was not read from one; `what` the message alone: the key, its value, and what is allowed;
    `result_file` where an image configuration wants the outcome reported, "" if that is not known.
    """

    def __init__(self, what: str, *, kind: str = "invalid", file: str = "", result_file: str = "") -> None:
        super().__init__(what)
        self.kind = kind
        self.file = file
        self.what = what
        self.result_file = result_file

    def __str__(self) -> str:
        return ": ".join(part for part in (self.kind, self.file, self.what) if part)


def shown(value: object) -> str:
    """`value` as a message shows it: JSON, cut when long; containers by their kind only."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    cut = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
    return f'"{cut}"' if isinstance(value, str) else cut
