"""What is wrong with a configuration, told in one line."""

import json
from typing import Final

from obd.errors import ObdError

# A value in a message is cut to this many characters: enough to recognise it, too little to flood a log.
SHOWN_CHARACTERS: Final = 60


class ConfigError(ObdError):
    """A configuration file that is missing, is not JSON, or asks for what makes no sense.

    `what` tells the key, its value and what is allowed. `result_file` is where an image configuration wants
    the outcome reported, "" if that is not known.
    """

    def __init__(self, what: str, *, kind: str = "invalid", file: str = "", result_file: str = "") -> None:
        super().__init__(kind, what, file)
        self.result_file = result_file


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
    # With its control characters escaped: a message is one line.
    return json.dumps(cut, ensure_ascii=False) if isinstance(value, str) else cut
