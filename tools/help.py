"""The help text of a command, made from its declaration."""

from __future__ import annotations

from tools.options import Argument, Command

WIDTH = 100
COLUMN = 28


def help_text(command: Command) -> str:
    """Usage line, summary, then what there is to give; at most `WIDTH` columns wide, ending in a newline."""
    parts = [_usage(command), *_wrap(command.summary, 0), ""]
    if command.details:
        for paragraph in command.details.strip().split("\n\n"):
            parts += [*_wrap(" ".join(paragraph.split()), 0), ""]
    if command.subcommands:
        parts += [
            "Commands:",
            *_table((sub.name, sub.summary) for sub in command.subcommands.values()),
            "",
        ]
    if command.positionals:
        parts += [
            "Arguments:",
            *_table((arg.name, _describe(arg)) for arg in command.positionals),
            "",
        ]
    rows = [(_spelling(arg), _describe(arg)) for arg in command.all_options()]
    parts += ["Options:", *_table([*rows, ("-h, --help", "print this text and exit")])]
    return "\n".join(parts) + "\n"


def _usage(command: Command) -> str:
    words = ["Usage:", command.path, "[options]"]
    if command.subcommands:
        words.append("<command>")
    for argument in command.positionals:
        name = argument.name + ("..." if argument.repeat else "")
        words.append(name if argument.required else f"[{name}]")
    return " ".join(words)


def _spelling(argument: Argument) -> str:
    names = ", ".join(argument.names)
    return names if argument.kind == "flag" else f"{names} {argument.metavar}"


def _describe(argument: Argument) -> str:
    text = argument.help
    if argument.required and argument.kind == "option":
        text += " (required)"
    elif argument.kind == "flag" and argument.default:
        text += f" (on by default; {argument.label}=false turns it off)"
    elif argument.default not in (None, False, "", []):
        text += f" (default {argument.default})"
    return text


def _table(rows: object) -> list[str]:
    lines = []
    for left, right in rows:  # type: ignore[attr-defined]
        wrapped = _wrap(right, COLUMN)
        if len(left) + 4 > COLUMN:
            lines += [f"  {left}", *wrapped]
        else:
            lines += [f"  {left}".ljust(COLUMN) + wrapped[0][COLUMN:], *wrapped[1:]]
    return lines


def _wrap(text: str, indent: int) -> list[str]:
    lines, line = [], " " * indent
    for word in text.split():
        if len(line) + 1 + len(word) > WIDTH and line.strip():
            lines.append(line)
            line = " " * indent
        line += word if not line.strip() else " " + word
    return [*lines, line]
