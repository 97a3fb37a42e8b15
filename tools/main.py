"""What every program does around its work: parse, run, report, and turn the outcome into an exit status."""

from __future__ import annotations

from tools.errors import FAILED, Failure, Stopped, describe, say, tell
from tools.options import Command, HelpRequested, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def run(command: Command, argv: Sequence[str] | None = None) -> int:
    """Runs `command` with the words `argv` (None: this process's) and returns the exit status.

    Help goes to stdout with status 0, a wrong command line to stderr with upstream's status. A failure is
    one line on stderr. After SIGINT, SIGTERM or SIGHUP the process ends by that
    signal, so that its caller can tell.
    """
    try:
        values = command.parse(argv)
    except HelpRequested as wanted:
        tell(wanted.command.help().rstrip("\n"))
        return 0
    except UsageError as error:
        say(str(error))
        say("Run with --help for more information.")
        return error.status
    try:
        return values.command.call(values)
    except Failure as failure:
        say(str(failure))
        return failure.status
    except (OSError, MemoryError) as error:
        say(f"{command.name}: {describe(error)}")
        return FAILED
    except KeyboardInterrupt:
        return _end_by_signal(2)
    except Stopped as stopped:
        return _end_by_signal(stopped.signal_number)


def _end_by_signal(number: int) -> int:
    import os
    import signal

    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number  # only if the signal is blocked
