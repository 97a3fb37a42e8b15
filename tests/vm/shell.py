"""A shell in a guest, or one command there: `python -m tests.vm.shell [uml|qemu|qemu2] [COMMAND...]`."""

import contextlib
import os
import shlex
import sys
import termios
from collections.abc import Sequence

from tests.vm.boot import KINDS, Guest, Lost
from tests.vm.kernels import Unavailable

FOREVER_S = 1e6


def main(arguments: Sequence[str]) -> int:
    """Runs the shell or the command; its exit status."""
    kind, command = (arguments[0], arguments[1:]) if {*arguments[:1]} & {*KINDS} else ("uml", arguments)
    before = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
    job = f"exec {shlex.join(command or ['bash', '-i'])}"
    if before:
        columns, rows = os.get_terminal_size()
        job = f"stty columns {columns} rows {rows}; export TERM={os.environ.get('TERM', 'linux')}; {job}"
    try:
        with Guest(kind, job, terminal=True) as guest:
            *_, last = guest.messages(FOREVER_S)
            return int(last["ended"])
    except (Lost, Unavailable) as e:
        print(f"no guest: {e}", file=sys.stderr)
        return 1
    finally:
        if before:  # a guest leaves it raw
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
