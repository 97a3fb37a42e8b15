"""What every program does around its work: parse, run, report, and turn the outcome into an exit status."""

from __future__ import annotations

# What `signal` wraps in enumerations, which take time to make.
import _signal  # type: ignore[import-not-found]

from tools.errors import FAILED, Failure, Stopped, describe, say, tell
from tools.options import Command, HelpRequested, UsageError
from tools.stopping import caught, forget, stopping

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
    forget()
    try:
        with stopping((_signal.SIGINT,)):
            return values.command.call(values)
    except KeyboardInterrupt:
        return _end_by_signal(_signal.SIGINT)
    except Stopped as stopped:
        return _end_by_signal(stopped.signal_number)
    except Exception as error:
        if caught():  # a signal's exception has become this on its way
            return _end_by_signal(caught())
        if isinstance(error, Failure):
            say(str(error))
            return error.status
        if not isinstance(error, (OSError, MemoryError)):
            raise
        say(f"{command.name}: {describe(error)}")
        return FAILED


def _end_by_signal(number: int) -> int:
    import os
    import signal

    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number  # only if the signal is blocked
