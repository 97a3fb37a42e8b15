"""`WWW-Authenticate` as registries send it, and as its grammar allows it."""

import pytest

from obd.challenge import Challenge, choose, parse

BEARER = Challenge("bearer", {"realm": "https://a/t", "service": "r", "scope": "repository:a/b:pull,push"})


@pytest.mark.parametrize(
    "header",
    [
        'Bearer realm="https://a/t",service="r",scope="repository:a/b:pull,push"',
        'bearer Realm = "https://a/t" ,\tSERVICE=r , scope="repository:a/b:pull,push"',
        ', ,Bearer realm="https://a/t", ,service="r",scope="repository:a/b:pull,push",',
        r'BEARER scope="repository:a\/b:pull,push",realm="https://a/t",service="r",realm="second"',
    ],
)
def test_one_challenge(header: str) -> None:
    assert parse([header]) == [BEARER]


def test_several_challenges_in_one_header_and_in_several() -> None:
    basic = Challenge("basic", {"realm": 'say "a, b"'})
    one = r'Negotiate, Basic realm="say \"a, b\"", Bearer realm="https://a/t",service=r'
    found = parse([one, "Custom dG9rZW4=="])
    bearer = Challenge("bearer", {"realm": "https://a/t", "service": "r"})
    assert found == [Challenge("negotiate"), basic, bearer, Challenge("custom")]
    assert choose(found) == bearer
    assert choose([basic]) == basic


@pytest.mark.parametrize(
    "header", ["", ",", "=", '"', "realm=x", "Bearer", 'Bearer realm="unclosed', "Digest a=b"]
)
def test_what_cannot_be_answered_is_not_chosen(header: str) -> None:
    assert choose(parse([header])) is None


def test_a_huge_header_is_cut() -> None:
    assert len(parse(["a=b," * (1 << 20)])) <= 1
