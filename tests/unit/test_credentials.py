"""The credential document: its forms, its matching, and that it is read again when it changes."""

import base64
import json
import logging
import os
import random
from pathlib import Path

import pytest

from obd.credentials import Credential, FileCredentials, match, repository
from obd.credentials.document import match_longest

REASON = "Expecting property name enclosed in double quotes"
URL = "https://h:5000/v2/a/b/c/blobs/sha256:00"


def entry(user: str, password: str = "p") -> dict[str, str]:
    return {"username": user, "password": password}


def user(auths: dict[str, object], url: str = URL) -> str | None:
    found = match(auths, url)
    return found.username if found else None


@pytest.mark.parametrize(
    ("keys", "winner"),
    [
        (["h:5000"], "h:5000"),
        (["h:5000/a/b", "h:5000"], "h:5000/a/b"),
        (["h:5000", "h:5000/a/b"], "h:5000"),  # document order, not the longest
        (["h:5000/a/b/c"], "h:5000/a/b/c"),
        (["h:5000/a/b/c/d", "h:5000/a/x", "h:5000/aa", "h", "h:50"], None),
        (["https://h:5000/", "https://h:5000/a"], "https://h:5000/a"),  # Docker's forms: the longest
        (["https://h:5000/a/b", "h:5000"], "h:5000"),  # but after upstream's
        (["https://h:5000/v1/"], "https://h:5000/v1/"),
        (["https://H:5000/v2/"], "https://H:5000/v2/"),
    ],
)
def test_which_entry_wins(keys: list[str], winner: str | None) -> None:
    assert user({key: entry(key) for key in keys}) == winner


def test_matching_is_that_of_a_plain_model() -> None:
    """A key fits if it is the beginning of host and repository, up to a slash or the end."""
    order = random.Random(1)
    hits = 0
    for _ in range(3000):
        parts = [order.choice("ab") for _ in range(order.randrange(1, 5))]
        url = f"https://h:5000/v2/{'/'.join(parts)}/blobs/sha256:00"
        keys = ["/".join([order.choice(["h:5000", "h"]), *order.choices("ab", k=n)]) for n in range(4)]
        order.shuffle(keys)
        fitting = [key for key in keys if f"h:5000/{'/'.join(parts)}/".startswith(f"{key}/")]
        hits += len(fitting) > 1
        auths: dict[str, object] = {key: entry(key) for key in keys}
        assert user(auths, url) == (fitting[0] if fitting else None)
        found = match_longest(auths, url)
        assert (found.username if found else None) == (max(fitting, key=len) if fitting else None)
    assert hits > 100


@pytest.mark.parametrize("url", ["https://[h/v2/a/blobs/x", "", "/", "https:///v2/a/blobs/x", "x" * 5000])
def test_what_is_no_url_has_no_credential(url: str, tmp_path: Path) -> None:
    path = tmp_path / "cred.json"
    path.write_text(json.dumps({"auths": {"": entry("u"), "/": entry("u"), "https://": entry("u")}}))
    source = FileCredentials(str(path))
    assert source.lookup(url) is None
    source.forget(url)


def test_docker_hub_and_default_ports() -> None:
    hub = "https://registry-1.docker.io/v2/library/x/blobs/sha256:00"
    assert user({"https://index.docker.io/v1/": entry("u")}, hub) == "u"
    assert user({"docker.io": entry("u")}, hub) == "u"
    assert user({"h:443": entry("u")}, "https://h/v2/a/blobs/sha256:00") == "u"
    assert user({"h": entry("u")}, "https://h:443/v2/a/blobs/sha256:00") == "u"
    assert user({"h:443": entry("u")}, "http://h/v2/a/blobs/sha256:00") is None


def test_forms_of_an_entry() -> None:
    auth = base64.b64encode(b"u:p:w").decode()
    assert match({"h:5000": {"auth": auth, **entry("other")}}, URL) == Credential("u", "p:w")
    # What is not usable is passed over; an empty user is anonymous.
    bad: dict[str, object] = {
        "h:5000": {"auth": base64.b64encode(b"nocolon").decode()},
        "h:5000/a": entry("u"),
    }
    assert user(bad) == "u"
    for unusable in ({}, None, "x", {"identitytoken": 7}, {"auth": "%%%"}, {"auth": 7, "username": 7}):
        assert user({"h:5000": unusable}) is None
    assert user({"h:5000": entry(""), "h:5000/a": entry("u")}) is None


def test_identity_tokens() -> None:
    auth = base64.b64encode(b"00000000-0000:").decode()
    found = match({"h:5000": {"auth": auth, "identitytoken": "tok"}}, URL)
    assert found == Credential("00000000-0000", "", "tok")
    assert match({"h:5000": {"identitytoken": "tok"}}, URL) == Credential("", "", "tok")
    assert match({"h:5000": entry("<token>", "tok")}, URL) == Credential("", "", "tok")
    auth = base64.b64encode(b"<token>:tok").decode()
    assert match({"h:5000": {"auth": auth}}, URL) == Credential("", "", "tok")
    assert "tok" not in repr(found)


def test_the_longest_key_wins_as_docker_has_it() -> None:
    auths: dict[str, object] = {key: entry(key) for key in ("h:5000", "h:5000/a/b", "h:5000/a")}
    found = match_longest(auths, URL)
    assert found is not None and found.username == "h:5000/a/b"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (URL, "a/b/c"),
        ("/https://h/v2/x/blobs/sha256:00", "x"),
        ("https://h/v2/a/blobs/b/blobs/uploads/1-2?_state=x", "a/blobs/b"),
        ("https://h/v2/a/b/manifests/blobs", "a/b"),
    ],
)
def test_repository(url: str, name: str) -> None:
    assert repository(url) == name


def test_a_file_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cred.json"
    source = FileCredentials(str(path))
    with caplog.at_level(logging.WARNING):
        assert source.lookup(URL) is None
        assert source.lookup(URL) is None
    assert len(caplog.records) == 1, "one line for one cause"
    for name in ("first", "second"):
        fresh = tmp_path / "new"
        fresh.write_text(json.dumps({"auths": {"h:5000": entry(name)}}))
        os.replace(fresh, path)
        found = source.lookup(URL)
        assert found is not None and found.username == name
    path.write_text("{")
    assert source.lookup(URL) is None
    assert source.describe() == f"file {path} (failed: not JSON: line 1 column 2: {REASON})"
    path.write_text(json.dumps({"auths": {"h:5000": entry("third")}}))
    assert source.lookup(URL) is not None
    assert source.describe() == f"file {path}"


def test_a_file_that_seems_the_same_is_read_again_after_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "cred.json"
    path.write_text(json.dumps({"auths": {"h:5000": entry("one")}}))
    source = FileCredentials(str(path))
    assert source.lookup(URL) == Credential("one", "p")
    # As if it had been changed within the clock's grain: the same time, size and inode.
    source._file._content = {}
    assert source.lookup(URL) is None
    source.forget(URL)
    assert source.lookup(URL) == Credential("one", "p")


def test_the_default_file_may_come_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cred.json"
    source = FileCredentials(str(path), optional=True)
    assert source.lookup(URL) is None
    assert source.describe() == f"file {path} (not there)"
    path.write_text(json.dumps({"auths": {"h:5000": entry("one")}}))
    assert source.lookup(URL) is not None
    assert not caplog.records


def test_a_broken_entry_is_logged_once_without_its_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cred.json"
    broken = base64.b64encode(b"hunter2").decode()
    path.write_text(json.dumps({"auths": {"https://u:hunter2@h:5000": {"auth": broken}}}))
    source = FileCredentials(str(path))
    assert [source.lookup(URL) for _ in range(3)] == [None, None, None]
    assert len(caplog.records) == 1
    assert "auth is not base64 of user:password" in caplog.text
    assert "hunter2" not in caplog.text and broken not in caplog.text


def test_a_password_is_in_no_repr() -> None:
    assert "hidden" not in repr(Credential("u", "hidden"))
