"""What every test may rely on, however the run was started."""

import signal

# A job in the background of a script, or under nohup, starts with signals ignored, and commands inherit that:
# tests that stop a command by a signal would wait for nothing.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)
