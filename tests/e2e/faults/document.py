"""Writes `docs/registry-faults.md` from the table: `python -m tests.e2e.faults.document`."""

from pathlib import Path

from tests.e2e.faults.scenario import Outcome, Right
from tests.e2e.faults.scenarios import SECTIONS

FILE = Path(__file__).resolve().parents[3] / "docs" / "registry-faults.md"

HEAD = """\
# When a registry misbehaves

What a registry, its token server, its object store, a mirror, a proxy or the network between may do, and what
the user of an image sees of it. Each row is a test: an image is opened and read at a server that does just
this, once while it is opened and once when it is open.

- **right bytes** means that the reader gets them and nothing is to be done. It may take some seconds.
- Otherwise the reader gets an I/O error (`EIO` from a device), and one line in the log has the kind of
  [failure](operations.md#reading-a-failure) and the words that the table shows. If the image was being
  opened, that fails, and the result file has the line after `failed:`. `URL` stands for that of the blob,
  which names registry, repository and digest. There is never a password, a token or a signature in it.
- When the fault is over, the next read is right again: nothing that was wrong is kept, and nothing has to be
  restarted. Only a place of a layer that was fetched wrong 16 times within a minute, which is some five
  failing reads, is left alone for the rest of that minute.

All this is with an [`outageTimeout`](configuration.md#the-host-overlaybdjson) of 0. By default an open device
waits for up to a minute for a registry that does not answer, or answers 429 or 5xx, before the failures below
come; the others come at once.

**Passing** is a fault that hits one or two requests and is over, **lasting** one that hits all of them.
"""


def cell(outcome: Outcome | None) -> str:
    """An outcome as people read it."""
    if outcome is None:
        return ""
    note = f" ({outcome.note})" if outcome.note else ""
    if isinstance(outcome, Right):
        return f"right bytes{note}"
    words = " … ".join(f"`{piece.replace('{url}', 'URL')}`" for piece in outcome.says)
    return f"**{outcome.kind}**: {words}{note}"


def render() -> str:
    """The document."""
    parts = [HEAD]
    for section in SECTIONS:
        parts += [
            f"\n## {section.title}\n\n{section.about}\n\n",
            "| what happens | passing | lasting |\n| --- | --- | --- |\n",
        ]
        parts += [f"| {row.name} | {cell(row.once)} | {cell(row.lasting)} |\n" for row in section.scenarios]
    return "".join(parts)


if __name__ == "__main__":
    FILE.write_text(render())
