"""What messages show of a URL."""

import pytest

from obd.secret import without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://r.example/v2/a/blobs/sha256:00", "https://r.example/v2/a/blobs/sha256:00"),
        ("https://r.example:5000/a@sha256:00?sig=s3cr3t", "https://r.example:5000/a@sha256:00?…"),
        ("https://[fd00::1]:5000/a@sha256:00", "https://[fd00::1]:5000/a@sha256:00"),
        ("https://r.example:port/a", "https://r.example:port/a"),
        ("http://alice:s3cr3t@proxy:3128", "http://…@proxy:3128"),
        ("http://alice:s3cr#3t@proxy:3128", "http://…@proxy:3128"),
        ("http://alice:s3cr@3t@proxy:3128/", "http://…@proxy:3128/"),
        ("http://alice:s3cr3t/pw@proxy:3128", "http://…"),
        ("http://alice:s3cr?3t@proxy:3128", "http://…"),
        ("http://alice:12/s3cr3t@proxy:3128", "http://…"),
        ("http://alice:/s3cr3t@proxy", "http://…"),
        ("http://alice:12?s3cr3t@proxy", "http://…"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
