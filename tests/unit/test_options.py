"""The option parser: upstream's rules and exit statuses, as a table."""

import pytest

from tools.options import Command, HelpRequested, UsageError, flag, option, positional
from tools.values import Choice, existing_file, integer, non_negative


def probe() -> Command:
    """A command with one of everything."""
    return Command(
        "probe",
        "a probe",
        options=[
            option("-u", "--uuid", help="a text"),
            option("--bs", convert=integer, default=4, metavar="N", help="a number"),
            option("--file", convert=existing_file, help="a file"),
            option("--algo", convert=Choice("lz4", "zstd"), help="a choice"),
            flag("-s", help="a flag"),
            flag("-z", help="another flag"),
            flag("--raw", help="a long flag"),
            flag("--compress", default=True, help="a flag that is on"),
        ],
        positionals=[
            positional("data_file", help="the data"),
            positional("index_file", help="the index", required=False),
            positional("vsize", convert=non_negative, help="GiB", required=False),
        ],
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "a",
            {
                "data_file": "a",
                "index_file": None,
                "vsize": None,
                "bs": 4,
                "uuid": None,
                "compress": True,
            },
        ),
        ("a b 1", {"data_file": "a", "index_file": "b", "vsize": 1}),
        ("-s a -z b 1", {"data_file": "a", "vsize": 1, "s": True, "z": True}),
        ("a b -s 64 --raw", {"index_file": "b", "vsize": 64, "s": True, "raw": True}),
        ("-sz a", {"s": True, "z": True}),
        ("-s -s --raw --raw a", {"s": True, "raw": True}),
        ("--raw --raw=false a", {"raw": False}),
        ("-uX a", {"uuid": "X"}),
        ("-u=X a", {"uuid": "=X"}),
        ("-suX a", {"uuid": "X", "s": True}),
        ("-u X a", {"uuid": "X"}),
        ("--uuid X a", {"uuid": "X"}),
        ("--uuid=X a", {"uuid": "X"}),
        ("--uuid= a", {"uuid": "", "data_file": "a"}),
        ("--uuid=a=b a", {"uuid": "a=b"}),
        ("--uuid -h a", {"uuid": "-h", "data_file": "a"}),
        ("--uuid -- a", {"uuid": "--", "data_file": "a"}),
        ("--bs=64 a", {"bs": 64}),
        ("--bs -1 a", {"bs": -1}),
        ("--bs +1 a", {"bs": 1}),
        ("--bs 0x10 a", {"bs": 16}),
        ("--raw=true a", {"raw": True}),
        ("--raw=false a", {"raw": False}),
        ("--compress=false a", {"compress": False}),
        ("--compress a", {"compress": True}),
        ("-- -s b", {"data_file": "-s", "index_file": "b", "s": False}),
        ("-s -- --raw", {"data_file": "--raw", "s": True, "raw": False}),
        ("-- a --", {"data_file": "a", "index_file": "--"}),
        ("- b", {"data_file": "-", "index_file": "b"}),
        ("-1 -2", {"data_file": "-1", "index_file": "-2"}),
        ("--file /dev/null a", {"file": "/dev/null"}),
        ("--algo zstd a", {"algo": "zstd"}),
    ],
)
def test_values(line: str, expected: dict[str, object]) -> None:
    values = probe().parse(line.split(" "))
    assert {name: getattr(values, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("a --bs x", 104, "could not convert: --bs = x"),
        ("a --bs 1.5", 104, "could not convert: --bs = 1.5"),
        ("a --bs=", 104, "could not convert: --bs = "),
        ("a --bs 99999999999", 104, "could not convert: --bs = 99999999999"),
        ("a --bs 010", 104, "could not convert: --bs = 010"),
        ("a b 1.5", 104, "could not convert: vsize = 1.5"),
        ("a --raw=maybe", 104, "could not convert: --raw = maybe"),
        ("a b -1", 105, "vsize: negative: -1"),
        ("a b x", 105, "vsize: not a number: x"),
        ("a b 18446744073709551616", 105, "vsize: too large: 18446744073709551616"),
        ("a --file /nowhere/x", 105, "--file: file does not exist: /nowhere/x"),
        ("a --file /", 105, "--file: is a directory, not a file: /"),
        ("a --algo gzip", 105, "--algo: must be one of: lz4, zstd: gzip"),
        ("-s", 106, "data_file is required"),
        ("--nope", 106, "data_file is required"),
        ("a b 1 2", 109, "the following argument was not expected: 2"),
        ("a b 1 2 3", 109, "the following arguments were not expected: 2 3"),
        ("a --nope", 109, "the following argument was not expected: --nope"),
        ("a --nope=3", 109, "the following argument was not expected: --nope=3"),
        ("a -q", 109, "the following argument was not expected: -q"),
        ("a --UUID 3", 109, "the following argument was not expected: --UUID"),
        ("a b --uui 3", 109, "the following argument was not expected: --uui"),
        ("a --compress false 3 4", 109, "the following argument was not expected: 4"),
        ("a -s=false", 109, "the following argument was not expected: -=false"),
        ("a --bs", 114, "--bs: a value is missing (N)"),
        ("a -u", 114, "--uuid: a value is missing (TEXT)"),
        ("a --bs 4 --bs 4", 114, "--bs: may be given only once, but was given 2 times"),
        (
            "a -uX --uuid X",
            114,
            "--uuid: may be given only once, but was given 2 times",
        ),
        ("--help --bs", 114, "--bs: a value is missing (N)"),
    ],
)
def test_wrong_command_lines(line: str, status: int, message: str) -> None:
    command = probe()
    with pytest.raises(UsageError) as caught:
        command.parse(line.split(" "))
    assert (caught.value.status, str(caught.value)) == (status, message)


@pytest.mark.parametrize(
    "line",
    ["-h", "--help", "a -h", "-sh", "--nope --help", "a --bs x --help", "a b c d e -h"],
)
def test_help_wins(line: str) -> None:
    with pytest.raises(HelpRequested) as caught:
        probe().parse(line.split(" "))
    assert caught.value.command.name == "probe"


def test_a_word_behind_the_end_of_options_is_not_help() -> None:
    assert probe().parse(["--", "-h"]).data_file == "-h"


def test_repeated_option_and_positional() -> None:
    command = Command(
        "many",
        "",
        options=[option("--set", help="", repeat=True)],
        positionals=[
            positional("first", help=""),
            positional("rest", help="", required=False, repeat=True),
        ],
    )
    values = command.parse(["a", "--set", "x", "b", "--set=y", "c"])
    assert (values.set, values.first, values.rest) == (["x", "y"], "a", ["b", "c"])
    assert command.parse(["a"]).rest == []


def test_namespace_knows_only_what_was_declared() -> None:
    with pytest.raises(AttributeError, match="sizee"):
        _ = probe().parse(["a"]).sizee


def tree() -> Command:
    """A program with subcommands: `obd [--json] image info|list`, `obd version`."""
    info = Command(
        "info",
        "describes",
        positionals=[positional("path", help="")],
        run="tools.values:text",
    )
    image = Command(
        "image",
        "about images",
        subcommands=[info, Command("list", "lists", run=lambda values: 7)],
    )
    version = Command("version", "its version", run=lambda values: 0)
    return Command(
        "obd",
        "all",
        options=[flag("--json", help="as JSON")],
        subcommands=[image, version],
    )


@pytest.mark.parametrize(
    "line",
    [
        "--json image info x",
        "image --json info x",
        "image info --json x",
        "image info x --json",
    ],
)
def test_options_of_a_group_may_stand_anywhere(line: str) -> None:
    values = tree().parse(line.split(" "))
    assert (values.command.path, values.path, values.json) == (
        "obd image info",
        "x",
        True,
    )


def test_subcommand_runs_its_function() -> None:
    values = tree().parse(["image", "list"])
    assert values.command.call(values) == 7


def test_function_named_by_text_is_imported_when_called() -> None:
    values = tree().parse(["image", "info", "x"])
    assert id(values.command.call(values)) == id(values)


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("image", 106, "obd image: a command is required"),
        ("--json", 106, "obd: a command is required"),
        ("image nope x", 109, "obd image has no command nope"),
        ("nope", 109, "obd has no command nope"),
        ("version x", 109, "the following argument was not expected: x"),
        ("image info", 106, "path is required"),
    ],
)
def test_wrong_subcommands(line: str, status: int, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        tree().parse(line.split(" "))
    assert (caught.value.status, str(caught.value)) == (status, message)


def test_help_of_a_subcommand() -> None:
    with pytest.raises(HelpRequested) as caught:
        tree().parse(["image", "info", "--help"])
    assert caught.value.command.path == "obd image info"


def test_help_text() -> None:
    assert probe().help() == (
        "Usage: probe [options] data_file [index_file] [vsize]\n"
        "a probe\n"
        "\n"
        "Arguments:\n"
        "  data_file                 the data\n"
        "  index_file                the index\n"
        "  vsize                     GiB\n"
        "\n"
        "Options:\n"
        "  -u, --uuid TEXT           a text\n"
        "  --bs N                    a number (default 4)\n"
        "  --file TEXT               a file\n"
        "  --algo TEXT               a choice\n"
        "  -s                        a flag\n"
        "  -z                        another flag\n"
        "  --raw                     a long flag\n"
        "  --compress                a flag that is on (on by default; --compress=false turns it off)\n"
        "  -h, --help                print this text and exit\n"
    )


def test_help_of_a_group_lists_its_commands() -> None:
    assert "Commands:\n  image                     about images\n" in tree().help()
