"""The `obd` command. Each subcommand is a file of its own, imported only when it is asked for."""

from __future__ import annotations

import sys
from importlib import import_module

from tools.main import run as carry_out
from tools.options import Command
from tools.stopping import end_at_once

SUBCOMMANDS = {
    "info": "tools.obd.info",
    "stat": "tools.obd.stat",
    "verify": "tools.obd.verify",
    "ls": "tools.obd.ls",
    "cat": "tools.obd.cat",
    "cp": "tools.obd.cp",
    "diff": "tools.obd.diff",
    "import": "tools.obd.import_",
    "export": "tools.obd.export",
    "config": "tools.obd.config",
    "serve": "tools.obd.serve",
    "mount": "tools.obd.mount",
    "umount": "tools.obd.umount",
    "attach": "tools.obd.attach",
    "detach": "tools.obd.detach",
    "list": "tools.obd.list",
    "doctor": "tools.obd.doctor",
    "snapshot": "tools.obd.snapshot",
    "grow": "tools.obd.grow",
    "reload": "tools.obd.reload",
    "log-level": "tools.obd.log_level",
    "cache": "tools.obd.cache",
    "trace": "tools.obd.trace",
    "inspect": "tools.obd.inspect",
    "copy": "tools.obd.copy",
    "push": "tools.obd.push",
    "pull": "tools.obd.pull",
    "rpull": "tools.obd.rpull",
    "convert": "tools.obd.convert",
    "commit": "tools.obd.commit",
    "run": "tools.obd.run",
    "demo": "tools.obd.demo",
}


def main() -> int:
    """Entry point of the program."""
    end_at_once()
    return carry_out(command(sys.argv[1:]))


def command(argv: list[str]) -> Command:
    """The command with the subcommand that `argv` names, or with all of them if it names none."""
    chosen = next((word for word in argv if not word.startswith("-")), "")
    names = [chosen] if chosen in SUBCOMMANDS else list(SUBCOMMANDS)
    return Command(
        "obd",
        "Looks at, checks, converts, serves, mounts, pushes and pulls overlaybd images.",
        subcommands=[import_module(SUBCOMMANDS[name]).COMMAND for name in names],
        details="`obd COMMAND --help` tells more. Exit status: 0 done, 255 failed (stderr says why), "
        "104 to 114 a wrong command line, 128 + n ended by signal n.",
    )
