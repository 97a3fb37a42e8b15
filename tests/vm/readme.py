"""The blocks of shell lines in README, which tests run as they stand."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def blocks_of_readme(title: str) -> list[str]:
    """The blocks of shell lines in a section of README."""
    section = README.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [
        re.sub("^    ", "", block, flags=re.MULTILINE)
        for block in section.strip("\n").split("\n\n")
        if block[:4] == "    "
    ]
