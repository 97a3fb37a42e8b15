"""Names of images in registries, and of places with images."""

import pytest

from obd.errors import ObdError
from obd.oci.name import Local, parse_name
from obd.reference import parse_reference

DIGEST = "sha256:" + "a" * 64
HUB = "https://registry-1.docker.io/v2"


@pytest.mark.parametrize(
    ("word", "url", "tag", "digest"),
    [
        ("registry.example/team/app", "https://registry.example/v2/team/app", "", ""),
        ("registry.example:5000/app:v1", "https://registry.example:5000/v2/app", "v1", ""),
        (f"registry/app:v1@{DIGEST}", "https://registry/v2/app", "v1", DIGEST),
        ("127.0.0.1:5000/a/b:v1", "http://127.0.0.1:5000/v2/a/b", "v1", ""),
        ("localhost/a", "http://localhost/v2/a", "", ""),
        ("[::1]:5000/a:b", "http://[::1]:5000/v2/a", "b", ""),
        ("https://localhost/a", "https://localhost/v2/a", "", ""),
        ("http://registry.example/a", "http://registry.example/v2/a", "", ""),
        ("docker://registry.example/a:v1", "https://registry.example/v2/a", "v1", ""),
        ("docker://localhost:5000/a", "http://localhost:5000/v2/a", "", ""),
        ("docker://debian", f"{HUB}/library/debian", "", ""),
        ("docker://debian:12", f"{HUB}/library/debian", "12", ""),
        (f"docker://debian@{DIGEST}", f"{HUB}/library/debian", "", DIGEST),
        ("docker://team/app:v1", f"{HUB}/team/app", "v1", ""),
        ("docker.io/debian:12", f"{HUB}/library/debian", "12", ""),
        ("docker.io/library/debian", f"{HUB}/library/debian", "", ""),
        ("index.docker.io/team/app", f"{HUB}/team/app", "", ""),
        ("registry-1.docker.io/library/debian", f"{HUB}/library/debian", "", ""),
    ],
)
def test_what_names_mean(word: str, url: str, tag: str, digest: str) -> None:
    found = parse_reference(word)
    assert found is not None and (found.url, found.tag, found.digest) == (url, tag, digest)


@pytest.mark.parametrize(
    "word",
    [
        "",
        "app",
        "/app",
        "host/",
        "host/app/",
        "host//app",
        "host/app:",
        "host/app:a/b",
        "host/app:" + "a" * 129,
        "host/app@",
        "host/app@sha256:12",
        "host/../app",
        "host/app?x",
        "host/app#x",
        "ftp://host/app",
        "host/.app",
        "host/a b",
        "docker://",
        "docker:///app",
        "user@host/app",
        "ho st/app",
        "host:port/app",
    ],
)
def test_what_is_no_name(word: str) -> None:
    assert parse_reference(word) is None
    with pytest.raises(ObdError, match="must be"):
        parse_name(word)


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("oci:images", Local("oci", "images", "")),
        ("oci:/a/images:v1", Local("oci", "/a/images", "v1")),
        ("oci:images:library/debian:12", Local("oci", "images", "library/debian:12")),
        ("oci-archive:a.tar:v1", Local("oci-archive", "a.tar", "v1")),
        ("docker-archive:a.tar:team/app:v1", Local("docker-archive", "a.tar", "team/app:v1")),
    ],
)
def test_places_of_this_machine(word: str, place: Local) -> None:
    assert parse_name(word) == place
