"""Log files: upstream's line format, rotation by us and by others, and no secrets."""

import fcntl
import logging
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from obd.config.service import LogConfig
from obd.logs import LineHandler, LogFile, Stamp, start_log, without_secrets

LINE = re.compile(
    r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6}\|(DEBUG|INFO |WARN |ERROR|FATAL)\|th=[0-9A-F]{16}\|"
    r"(\w+\.py):(\d+)\|(\w+):(.*)"
)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger that nobody else hears."""
    mine = logging.Logger("test")
    yield mine
    for handler in mine.handlers:
        handler.close()


def test_words_of_foreigners_do_nothing_to_a_terminal(tmp_path: Path, logger: logging.Logger) -> None:
    logger.addHandler(LineHandler(LogFile(str(tmp_path / "log"), 10 << 20, 3)))
    logger.warning("a\x1b[2J\x07\r\nb \u202e\x9b c\u2028d ä")
    line = (tmp_path / "log").read_text()
    assert line.endswith("a\\x1b[2J\\x07\\r\\nb \\u202e\\x9b c\\u2028d ä\n") and line.count("\n") == 1


def test_a_line_is_upstreams(tmp_path: Path, logger: logging.Logger) -> None:
    logger.addHandler(LineHandler(LogFile(str(tmp_path / "log"), 10 << 20, 3)))
    logger.warning("layer %d is gone", 3, extra={"errno": 2})
    logger.debug("two\nlines")
    try:
        raise ValueError("because")
    except ValueError:
        logger.exception("failed")
    lines = (tmp_path / "log").read_text().splitlines()
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    first, second, third = (match.groups() for match in found if match)
    assert first[0] == "WARN " and first[1] == "test_logs.py" and first[3] == "test_a_line_is_upstreams"
    assert first[4] == "layer 3 is gone errno=2(No such file or directory)"
    assert (second[0], second[4]) == ("DEBUG", r"two\nlines")
    assert third[0] == "ERROR" and third[4].startswith("failed\\nTraceback") and "because" in third[4]
    assert stat.S_IMODE(os.stat(tmp_path / "log").st_mode) == 0o644


def test_rotation_keeps_as_many_files_as_asked_for(tmp_path: Path) -> None:
    (tmp_path / "log.3").write_text("of a configuration with more files")
    file = LogFile(str(tmp_path / "log"), 30, 3)
    for number in range(7):
        file.write(f"{number} " + 20 * "x" + "\n")
    file.close()
    found = {path.name: re.findall(r"^\d", path.read_text(), re.MULTILINE) for path in tmp_path.iterdir()}
    # Rotated after the write that goes beyond the limit.
    assert found == {"log": ["6"], "log.1": ["4", "5"], "log.2": ["2", "3"]}


def test_processes_that_share_a_file_rotate_it_once(tmp_path: Path) -> None:
    """Each is beyond the limit before any has rotated. A `LogFile` each, as in processes of their own."""
    path = str(tmp_path / "log")
    first, second = LogFile(path, 30, 3), LogFile(path, 30, 3)

    class Between:
        """At the look at the size: by now the other has rotated."""

        def __init__(self) -> None:
            self.real = os.fstat

        def __call__(self, fd: int) -> os.stat_result:
            size = self.real(fd)
            if size.st_size > 30 and fd == second._fd and not rotated:
                rotated.append(True)
                first.write("first\n")
            return size

    rotated: list[bool] = []
    first.write("a line that fills half of it\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("obd.logs.os.fstat", Between())
        second.write("a line of the second\n")
    second.write("after\n")
    for file in (first, second):
        file.close()
    assert rotated
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "log": "after\n",
        "log.1": "a line that fills half of it\na line of the second\nfirst\n",
    }


def test_a_file_that_another_rotates_just_now_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), 5, 3)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        file.write("too long\n")
        assert [entry.name for entry in tmp_path.iterdir()] == ["log"]
        path.rename(tmp_path / "log.1")
    file.write("new\n")
    file.close()
    assert path.read_text() == "new\n"


def test_one_file_is_begun_anew(tmp_path: Path) -> None:
    file = LogFile(str(tmp_path / "log"), 5, 1)
    file.write("too long\n")
    file.write("new\n")
    file.close()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("log", "new\n")]


@pytest.mark.parametrize("how", ["renamed", "removed", "asked"])
def test_a_file_that_others_rotate_is_followed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), 1 << 20, 3)
    file.write("old\n")
    if how == "removed":
        path.unlink()
    else:
        path.rename(tmp_path / "log-20260101")
    if how == "asked":
        file.reopen()
        assert path.read_text() == ""
    file.write("new\n")
    file.close()
    assert path.read_text() == "new\n"


def test_the_time_is_local_also_after_the_zone_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    at = 1_700_000_000.25
    monkeypatch.setattr("obd.logs._ZONE_S", 0.0)
    stamp = Stamp()
    try:
        for zone, shown in (("UTC0", "2023/11/14 22:13:20.250000"), ("XXX-3", "2023/11/15 01:13:20.250000")):
            monkeypatch.setenv("TZ", zone)
            assert stamp(at, "INFO ", 0xABC) == f"{shown}|INFO |th=0000000000000ABC|"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("sent Authorization: Bearer abcdef.ghijkl-mn", "sent Authorization: Bearer ***"),
        ("Basic dXNlcjpwYXNzd29yZA== was refused", "Basic *** was refused"),
        ('{"token": "ey123", "expires_in": 60}', '{"token": ***, "expires_in": 60}'),
        ("password=hunter2 for ann", "password=*** for ann"),
        ("GET https://ann:pw@r.example/v2/", "GET https://***@r.example/v2/"),
        ("https://s3.example/x?X-Amz-Signature=abc&e=1 is 403", "https://s3.example/x?*** is 403"),
        ("layer 3 of https://r.example/v2/a/blobs/sha256:ab: 404", None),
        ("basic checks of the token server", None),
    ],
)
def test_secrets_are_not_in_a_line(said: str, shown: str | None) -> None:
    assert without_secrets(said) == (said if shown is None else shown)


def test_the_configuration_decides_what_is_logged(tmp_path: Path) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        handler = start_log(LogConfig(level=2, path=str(tmp_path / "log"), size_mib=1, files=2))
        logging.getLogger("overlaybd.x").info("not this")
        logging.getLogger("overlaybd.x").error("but this")
        root.removeHandler(handler)
        handler.close()
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 1 and lines[0].endswith(":but this")


def test_a_reader_that_stands_still_holds_nobody_up() -> None:
    program = (
        "import logging, sys; from obd.config.service import LogConfig; from obd.logs import start_log\n"
        "start_log(LogConfig(level=1, path='', size_mib=1, files=1))\n"
        "for _ in range(2000): logging.info('x' * 1000)\n"
        "print('goes on', file=sys.stderr, flush=True)\n"
        "sys.stdin.readline()\n"
        "logging.info('the last')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        assert process.stderr.readline() == "goes on\n"
        lines: list[str] = []
        while len(lines) < 10:  # so much of it fits a pipe that there is room now
            lines.append(process.stdout.readline())
        process.stdin.write("\n")
        process.stdin.flush()
        lines += process.stdout.readlines()
    assert process.returncode == 0
    assert all(line.endswith(f":{'x' * 1000}\n") for line in lines[:10])
    (told,) = (line for line in lines if "it is lost" in line)
    assert told.startswith("(") and lines[-1].endswith(":the last\n") and lines[-2] == told
