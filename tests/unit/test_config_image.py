"""The image configuration: what is read, what is refused and with which words."""

import json
from pathlib import Path
from typing import Any

import pytest

from obd.config import ConfigError, ImageConfig, Lower, check_image, load_image, parse_image

HEX = "ab" * 32
DIGEST = f"sha256:{HEX}"
URL = "https://registry.example.com/v2/team/app/blobs"


def write(directory: Path, content: object) -> Path:
    path = directory / "config.v1.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_every_key_is_read(tmp_path: Path) -> None:
    config = load_image(
        write(
            tmp_path,
            {
                "repoBlobUrl": URL,
                "lowers": [
                    {
                        "file": "/f",
                        "dir": "/d",
                        "digest": DIGEST,
                        "size": 2**64 - 1,
                        "targetFile": "/t",
                        "targetDigest": DIGEST,
                        "gzipIndex": "/g",
                    },
                    {"file": "/second"},
                ],
                "upper": {"index": "/i", "data": "/dd", "target": "/tt", "gzipIndex": "/gg", "vsize": 64},
                "resultFile": "/r",
                "download": {
                    "enable": True,
                    "delay": 1,
                    "delayExtra": -1,
                    "maxMBps": 0,
                    "tryCnt": 2,
                    "blockSize": 4096,
                },
                "accelerationLayer": True,
            },
        )
    )
    lower = config.lowers[0]
    assert (lower.file, lower.dir, lower.digest, lower.size_bytes) == ("/f", "/d", DIGEST, 2**64 - 1)
    assert (lower.target_file, lower.target_digest, lower.gzip_index) == ("/t", DIGEST, "/g")
    upper = config.upper
    assert (upper.index, upper.data, upper.target, upper.gzip_index) == ("/i", "/dd", "/tt", "/gg")
    assert config.writable
    assert (config.repo_blob_url, config.result_file) == (URL, "/r")
    assert config.download is not None
    download = config.download
    assert (download.enable, download.delay_s, download.delay_extra_s) == (True, 1, -1)
    assert (download.max_mib_per_s, download.try_count, download.block_size_bytes) == (0, 2, 4096)
    assert config.acceleration_layer
    assert config.data_lowers == config.lowers[:1], "an acceleration layer holds no data"
    assert config.unknown_keys == ()
    assert config.file == str(tmp_path / "config.v1.json")


def test_defaults() -> None:
    config = parse_image({"lowers": [{"file": "/f"}], "download": {}})
    assert not config.writable
    assert config.download is not None
    assert (config.download.enable, config.download.delay_s, config.download.delay_extra_s) == (
        False,
        300,
        30,
    )
    assert (config.download.max_mib_per_s, config.download.try_count) == (100, 5)
    assert config.download.block_size_bytes == 262144
    assert parse_image({"lowers": [{"file": "/f"}]}).download is None, "absence means: ask the service"


@pytest.mark.parametrize("upper", [{}, {"index": "/i"}, {"data": "/d"}, {"index": "", "data": "/d"}])
def test_an_incomplete_upper_is_none(upper: dict[str, str]) -> None:
    assert not parse_image({"lowers": [{"file": "/f"}], "upper": upper}).writable


def test_the_first_of_repeated_keys_wins(tmp_path: Path) -> None:
    path = write(tmp_path, '{"lowers": [{"file": "/one", "file": "/two"}], "lowers": [], "resultFile": "/r"}')
    assert load_image(path).lowers[0].file == "/one"


def test_unknown_keys_are_named_and_ignored() -> None:
    config = parse_image({"lowers": [{"file": "/f", "fil": 1}], "repoBlobURL": 7, "upper": {"vsize": "any"}})
    assert sorted(config.unknown_keys) == [
        "lowers[0].fil (did you mean file?)",
        "repoBlobURL (did you mean repoBlobUrl?)",
    ]


def test_blob_url_has_one_slash() -> None:
    for url in (URL, URL + "/"):
        assert ImageConfig(repo_blob_url=url).blob_url(DIGEST) == f"{URL}/{DIGEST}"
    assert ImageConfig().blob_url(DIGEST) == ""


def test_repr_hides_what_may_be_secret() -> None:
    config = parse_image(
        {"lowers": [{"file": "/f"}], "repoBlobUrl": "https://user:hunter2@host:5000/v2/a/blobs?sig=hunter3"}
    )
    assert "hunter" not in repr(config)
    assert "host:5000/v2/a/blobs" in repr(config)


LOWER = {"file": "/f"}
BAD: list[tuple[str, Any, str]] = [
    ("root", "[]", "the root must be an object"),
    ("bom", "\ufeff{}", "not JSON: line 1 column 1"),
    ("comment", '{"lowers": [] // none\n}', "not JSON: line 1 column 15"),
    ("trailing comma", '{"lowers": [],}', "not JSON: line 1 column 15"),
    ("trailing text", '{"lowers": [{"file": "/f"}]} x', "not JSON: line 1 column 30: Extra data"),
    ("nan", '{"download": {"delay": NaN}}', "not JSON: NaN is not a number"),
    ("deep", "[" * 100_000, "not a configuration: nested too deeply"),
    ("digits", '{"lowers": [{"size": ' + "9" * 5000 + "}]}", "not JSON: "),
    ("control", '{"lowers": [{"file": "/a\\u0000b"}]}', "lowers[0].file: character U+0000 is not allowed"),
    ("surrogate", '{"lowers": [{"file": "/\\ud800"}]}', "lowers[0].file: character U+D800 is not allowed"),
    ("lowers object", {"lowers": {}}, "lowers: an object is not allowed: must be an array of objects"),
    ("lowers item", {"lowers": ["/f"]}, 'lowers[0]: "/f" is not allowed: must be an object'),
    ("file", {"lowers": [{"file": 7}]}, "lowers[0].file: 7 is not allowed: must be a string"),
    ("null", {"lowers": [{"file": None}]}, "lowers[0].file: null is not allowed: must be a string"),
    (
        "size",
        {"lowers": [LOWER, {"size": "7"}]},
        'lowers[1].size: "7" is not allowed: must be an integer from 0 to 18446744073709551615',
    ),
    (
        "size below",
        {"lowers": [{"size": -1}]},
        "lowers[0].size: -1 is not allowed: must be an integer from 0",
    ),
    ("size above", {"lowers": [{"size": 2**64}]}, "lowers[0].size: 18446744073709551616 is not allowed"),
    ("size real", {"lowers": [{"size": 1.0}]}, "lowers[0].size: 1.0 is not allowed: must be an integer"),
    ("size bool", {"lowers": [{"size": True}]}, "lowers[0].size: true is not allowed: must be an integer"),
    ("flag", {"accelerationLayer": 1}, "accelerationLayer: 1 is not allowed: must be true or false"),
    ("upper", {"upper": []}, "upper: an array is not allowed: must be an object"),
    ("upper null", {"upper": None}, "upper: null is not allowed: must be an object"),
    (
        "download",
        {"download": {"delay": 2**31}},
        "download.delay: 2147483648 is not allowed: must be an integer from -2147483648 to 2147483647",
    ),
    ("long value", {"accelerationLayer": "x" * 500}, "xxx…"),
    ("nothing", {}, "no layers: lowers is empty, and upper does not name both index and data"),
    ("half an upper", {"upper": {"data": "/d"}}, "no layers: "),
    (
        "only acceleration",
        {"lowers": [{"dir": "/d"}], "accelerationLayer": True},
        "no layers: ",
    ),
    (
        "record and replay",
        {"lowers": [LOWER, LOWER], "accelerationLayer": True, "recordTracePath": "/t"},
        "accelerationLayer and recordTracePath: only one of the two can be used",
    ),
    ("too many", {"lowers": [LOWER] * 256}, "lowers: 256 layers, at most 255 can be stacked"),
    (
        "digest",
        {"lowers": [{"dir": "/d", "digest": "sha256:12"}]},
        'lowers[0].digest: "sha256:12" is not allowed: must be sha256:<64 hex digits>',
    ),
    ("digest case", {"lowers": [{"file": "/f", "digest": "sha256:" + "AB" * 32}]}, "lowers[0].digest: "),
    ("digest path", {"lowers": [{"file": "/f", "digest": "sha256:../../" + "a" * 58}]}, "lowers[0].digest: "),
    ("target digest", {"lowers": [{"file": "/f", "targetDigest": HEX}]}, "lowers[0].targetDigest: "),
    (
        "gzip index",
        {"lowers": [{"file": "/f", "gzipIndex": "/g"}]},
        'lowers[0].gzipIndex: "/g" needs targetFile or targetDigest',
    ),
    (
        "upper gzip index",
        {"upper": {"index": "/i", "data": "/d", "gzipIndex": "/g"}},
        'upper.gzipIndex: "/g" needs upper.target',
    ),
    ("nowhere", {"lowers": [{"size": 5}]}, "lowers[0]: none of file, dir and digest says where the layer is"),
    (
        "no url",
        {"lowers": [LOWER, {"digest": DIGEST}]},
        "empty repoBlobUrl: lowers[1] has neither file nor dir",
    ),
    (
        "no target url",
        {"lowers": [{"file": "/f", "targetDigest": DIGEST}]},
        "empty repoBlobUrl: lowers[0].targetDigest is remote",
    ),
    (
        "scheme",
        {"lowers": [LOWER], "repoBlobUrl": "host:9999/v2/a/blobs"},
        "repoBlobUrl: must look like https://",
    ),
    ("no host", {"lowers": [LOWER], "repoBlobUrl": "https:///v2"}, "repoBlobUrl: must look like https://"),
    (
        "one file twice",
        {"upper": {"index": "/x/../d", "data": "/d"}},
        "upper: index and data are the same file",
    ),
]


@pytest.mark.parametrize(("content", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_refused_is_named(tmp_path: Path, content: object, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        load_image(path)
    line = str(caught.value)
    assert line.startswith(f"invalid: {path}: ")
    assert message in line
    assert "\n" not in line and len(line) < 250 + len(str(path))


def test_255_lowers_are_enough_and_an_acceleration_layer_does_not_count() -> None:
    assert len(parse_image({"lowers": [LOWER] * 255}).lowers) == 255
    assert len(parse_image({"lowers": [LOWER] * 256, "accelerationLayer": True}).data_lowers) == 255


def test_not_utf8_and_missing_and_too_long(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with pytest.raises(ConfigError, match=r"not-found: .*/c: cannot open: No such file") as caught:
        load_image(path)
    assert caught.value.kind == "not-found"
    path.write_bytes(b'{"resultFile": "\xff"}')
    with pytest.raises(ConfigError, match="not UTF-8 at byte 16"):
        load_image(path)
    path.write_bytes(b" " * (5 << 20))
    with pytest.raises(ConfigError, match="longer than 4194304 bytes"):
        load_image(path)
    with pytest.raises(ConfigError, match=r"^io: .*Is a directory"):
        load_image(tmp_path)


def test_the_error_says_where_to_report_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_image(write(tmp_path, {"resultFile": "/r", "lowers": 7}))
    assert caught.value.result_file == "/r"
    with pytest.raises(ConfigError) as caught:
        load_image(write(tmp_path, {"resultFile": 7, "lowers": []}))
    assert caught.value.result_file == ""


def test_a_configuration_made_in_code_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="none of file, dir and digest"):
        check_image(ImageConfig(lowers=(Lower(),)))
