"""The command lines of all our programs: declared once, parsed with upstream's rules and exit statuses.

Options and positionals mix in any order; `--opt value`, `--opt=value`, `-p value`, `-pvalue`; flags of one
letter may be run together (`-zf`); `--flag=false`; `--` ends options. A negative number is a positional.
Names are never abbreviated. An option with a value may be given once; of a repeated flag the last one counts.

This module is on the start path of every command: it imports nothing that is not loaded anyway.
"""

from __future__ import annotations

import sys

from tools.values import Rejected, Unconvertible, boolean, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    Convert = Callable[[str], Any]

# Upstream's exit statuses for a wrong command line.
UNCONVERTIBLE = 104
REJECTED = 105
MISSING = 106
UNEXPECTED = 109
ARGUMENT = 114


class UsageError(Exception):
    """A wrong command line: `str()` is the message, `status` the exit status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HelpRequested(Exception):
    """`-h` or `--help` was given; `command` is the one whose help is wanted."""

    def __init__(self, command: Command) -> None:
        super().__init__(command.name)
        self.command = command


class Namespace:
    """The values of one command line: an attribute per option and positional, and the chosen `command`."""

    command: Command

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no option or positional is called {name}")

    def __repr__(self) -> str:
        return f"Namespace({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items() if k != 'command')})"


class Argument:
    """An option, a flag or a positional: how it is written and what becomes of its word."""

    __slots__ = (
        "convert",
        "default",
        "help",
        "kind",
        "metavar",
        "name",
        "names",
        "repeat",
        "required",
    )

    def __init__(
        self,
        kind: str,
        names: Sequence[str],
        convert: Convert,
        default: Any,
        help: str,
        metavar: str,
        required: bool = False,
        repeat: bool = False,
    ) -> None:
        self.kind = kind
        self.names = tuple(names)
        self.convert = convert
        self.default = default
        self.help = help
        self.metavar = metavar
        self.required = required
        self.repeat = repeat
        longest = max(names, key=len)
        self.name = longest.lstrip("-").replace("-", "_")

    @property
    def label(self) -> str:
        """How messages call it."""
        return self.names[-1]

    def value(self, word: str) -> Any:
        """The value of `word`; a word that does not fit is a `UsageError`."""
        try:
            return self.convert(word)
        except Unconvertible:
            raise UsageError(UNCONVERTIBLE, f"could not convert: {self.label} = {word}") from None
        except Rejected as reason:
            raise UsageError(REJECTED, f"{self.label}: {reason}: {word}") from None


def flag(*names: str, help: str, default: bool = False) -> Argument:
    """A flag: True when given (or `--flag=true`), False with `--flag=false`."""
    return Argument("flag", names, boolean, default, help, "")


def option(
    *names: str,
    help: str,
    metavar: str = "TEXT",
    convert: Convert = text,
    default: Any = None,
    required: bool = False,
    repeat: bool = False,
) -> Argument:
    """An option with a value. With `repeat` it may be given several times and its value is a list."""
    return Argument(
        "option",
        names,
        convert,
        [] if repeat else default,
        help,
        metavar,
        required,
        repeat,
    )


def positional(
    name: str,
    *,
    help: str,
    convert: Convert = text,
    default: Any = None,
    required: bool = True,
    repeat: bool = False,
) -> Argument:
    """A positional. With `repeat` (only the last one) it takes all that are left, as a list."""
    return Argument(
        "positional",
        [name],
        convert,
        [] if repeat else default,
        help,
        "",
        required,
        repeat,
    )


class Command:
    """A command, or a subcommand, or a group of subcommands.

    `options` of a group may also be given behind its subcommands. `run` is what carries it out: a function of
    the namespace that returns the exit status, or its name as `module:function`, imported only when needed.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        options: Iterable[Argument] = (),
        positionals: Iterable[Argument] = (),
        subcommands: Iterable[Command] = (),
        run: Callable[[Namespace], int] | str | None = None,
        details: str = "",
    ) -> None:
        self.name = name
        self.summary = summary
        self.details = details
        self.options = tuple(options)
        self.positionals = tuple(positionals)
        self.subcommands = {sub.name: sub for sub in subcommands}
        self.run = run
        self.parent: Command | None = None
        for sub in self.subcommands.values():
            sub.parent = self

    @property
    def path(self) -> str:
        """The words that call it, from the program's name on."""
        return self.name if self.parent is None else f"{self.parent.path} {self.name}"

    def all_options(self) -> tuple[Argument, ...]:
        """Its own options and those of the groups that it is in."""
        return self.options if self.parent is None else self.options + self.parent.all_options()

    def parse(self, argv: Sequence[str] | None = None) -> Namespace:
        """The values of `argv` (without the program's name; None: this process's).

        Raises `UsageError` and `HelpRequested`; `tools.main` turns them into output and an exit status.
        """
        return _Parser(self).run(list(sys.argv[1:] if argv is None else argv))

    def call(self, values: Namespace) -> int:
        """Runs the command and returns its exit status."""
        run = self.run
        if isinstance(run, str):
            module_name, _, function = run.partition(":")
            __import__(module_name)
            run = getattr(sys.modules[module_name], function)
        assert callable(run), f"{self.path} has nothing to run"
        return run(values)

    def help(self) -> str:
        """The help text, ending in a newline."""
        from tools.help import help_text

        return help_text(self)


class _Parser:
    """One pass over one command line."""

    def __init__(self, command: Command) -> None:
        self.enter(command)
        self.given: dict[Argument, list[str]] = {}
        self.words: list[str] = []
        self.unexpected: list[str] = []
        self.unknown_command: str | None = None
        self.help = False

    def enter(self, command: Command) -> None:
        self.command = command
        self.by_name = {name: argument for argument in command.all_options()[::-1] for name in argument.names}

    def run(self, argv: list[str]) -> Namespace:
        self.scan(argv)
        if self.help:
            raise HelpRequested(self.command)
        if self.unknown_command is not None:
            raise UsageError(UNEXPECTED, f"{self.command.path} has no command {self.unknown_command}")
        if self.command.subcommands and self.command.run is None:
            raise UsageError(MISSING, f"{self.command.path}: a command is required")
        positions = self.place_words()
        arguments = (*self.command.all_options(), *self.command.positionals)
        values = {argument.name: self.value(argument, positions.get(argument)) for argument in arguments}
        for argument in arguments:
            if argument.required and argument not in self.given and argument not in positions:
                raise UsageError(MISSING, f"{argument.label} is required")
        if self.unexpected:
            plural = "s were" if len(self.unexpected) > 1 else " was"
            raise UsageError(
                UNEXPECTED,
                f"the following argument{plural} not expected: {' '.join(self.unexpected)}",
            )
        values["command"] = self.command
        return Namespace(values)

    def scan(self, argv: list[str]) -> None:
        """Sorts the words into options with their values, positionals and what nobody knows."""
        rest = argv[::-1]
        ended = False
        while rest:
            word = rest.pop()
            if ended or len(word) < 2 or word[0] != "-":
                self.word(word)
            elif word == "--":
                ended = True
            elif word.startswith("--"):
                self.long(word, rest)
            elif word[1].isdigit() and word[:2] not in self.by_name:
                self.word(word)
            else:
                self.short(word, rest)

    def word(self, word: str) -> None:
        if not self.command.subcommands:
            self.words.append(word)
        elif word in self.command.subcommands and self.unknown_command is None:
            self.enter(self.command.subcommands[word])
        elif self.unknown_command is None:
            self.unknown_command = word

    def long(self, word: str, rest: list[str]) -> None:
        name, equals, value = word.partition("=")
        argument = self.by_name.get(name)
        if word == "--help":
            self.help = True
        elif argument is None:
            self.unexpected.append(word)
        elif argument.kind == "flag":
            self.give(argument, value if equals else "true")
        elif equals:
            self.give(argument, value)
        else:
            self.give_next(argument, rest)

    def short(self, word: str, rest: list[str]) -> None:
        name, tail = word[:2], word[2:]
        argument = self.by_name.get(name)
        if argument is not None and argument.kind == "option":
            if tail:
                self.give(argument, tail)
            else:
                self.give_next(argument, rest)
            return
        if name == "-h":
            self.help = True
        elif argument is not None:
            self.give(argument, "true")
        else:
            self.unexpected.append(word)
            return
        if tail:
            rest.append("-" + tail)

    def give_next(self, argument: Argument, rest: list[str]) -> None:
        if not rest:
            raise UsageError(ARGUMENT, f"{argument.label}: a value is missing ({argument.metavar})")
        self.give(argument, rest.pop())

    def give(self, argument: Argument, word: str) -> None:
        self.given.setdefault(argument, []).append(word)

    def place_words(self) -> dict[Argument, list[str]]:
        """Deals the words to the positionals in order; a repeated one takes all, the rest is unexpected."""
        left = list(self.words)
        placed: dict[Argument, list[str]] = {}
        for argument in self.command.positionals:
            if not left:
                break
            count = len(left) if argument.repeat else 1
            placed[argument], left = left[:count], left[count:]
        self.unexpected += left
        return placed

    def value(self, argument: Argument, words: list[str] | None) -> Any:
        given = self.given.get(argument) or words
        if not given:
            return list(argument.default) if argument.repeat else argument.default
        if argument.repeat:
            return [argument.value(word) for word in given]
        if len(given) > 1 and argument.kind == "option":
            raise UsageError(
                ARGUMENT,
                f"{argument.label}: may be given only once, but was given {len(given)} times",
            )
        return argument.value(given[-1])
