"""Layers: the core reads what upstream made, and an independent reader reads what the core makes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

import obdcore
from tests.ref import lsmt_ref as ref

GOLDEN = Path(__file__).parents[1] / "golden"
LSMT = GOLDEN / "lsmt"
SIZE = 1 << 19
UUID = "0A1B2C3D-1111-4222-8333-444455556666"
PARENT = "A1B2C3D4-0000-4000-8000-000000000001"


def golden(name: str, folder: Path = LSMT) -> bytes:
    """A golden file, decompressed where it is stored compressed."""
    if (folder / name).exists():
        return (folder / name).read_bytes()
    return zstandard.ZstdDecompressor().decompressobj().decompress((folder / f"{name}.zst").read_bytes())


def has_golden(name: str) -> bool:
    return (LSMT / name).exists() or (LSMT / f"{name}.zst").exists()


@pytest.fixture
def place(tmp_path: Path) -> Callable[[str], str]:
    """Puts a golden file into a directory; returns its path."""

    def put(name: str) -> str:
        path = tmp_path / name
        path.write_bytes(golden(name))
        return str(path)

    return put


def create(path: Path) -> int:
    """A descriptor of a new file."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)


def contents(image: obdcore.Image) -> bytes:
    return image.read_at(0, image.size)


def digest(name: str) -> str:
    return golden(f"{name}.flat.sha256").decode().split()[0]


# ---- what upstream made

DESCRIBED = sorted(
    path.name.removesuffix(".json")
    for path in LSMT.glob("*.json")
    if has_golden(path.name.removesuffix(".json"))
)


def test_there_are_descriptions() -> None:
    assert len(DESCRIBED) > 40


@pytest.mark.parametrize("name", DESCRIBED)
def test_golden_file_is_what_its_description_says(name: str, place: Callable[[str], str]) -> None:
    facts = json.loads(golden(f"{name}.json"))
    info = obdcore.layer_info(place(name))
    assert info["size"] == facts["size"]
    assert ("zfile" in info) == ("zfile" in facts)
    for part in ("header", "trailer"):
        if facts[part] is None:
            assert part not in info["lsmt"]
            continue
        ours = info["lsmt"][part]
        theirs = facts[part]
        for key in ("flags", "virtual_size", "uuid", "parent_uuid", "index_offset"):
            assert ours[key] == theirs[key], (part, key)
        assert (ours["index_entries"], ours["tag"]) == (theirs["index_size"], theirs["user_tag"])
    if "index_region" in facts:
        index = info["lsmt"]["index"]
        assert index["segments"] == facts["index_region"]["valid"]
        if info["lsmt"]["kind"] == "committed":
            assert index["padding"] == facts["index_region"]["padding"]
    if "zfile" in info:
        zfile = facts["zfile"]["trailer"]
        assert info["zfile"]["block_size"] == zfile["block_size"]
        assert info["zfile"]["original_size"] == zfile["original_file_size"]
        assert info["zfile"]["algorithm"] == {1: "lz4", 2: "zstd"}[zfile["algo"]]


@pytest.mark.parametrize(
    "name", [name for name in DESCRIBED if "zfile" not in json.loads(golden(f"{name}.json"))]
)
def test_reference_reads_what_the_description_says(name: str) -> None:
    facts = json.loads(golden(f"{name}.json"))
    content = golden(name)
    assert hashlib.sha256(content).hexdigest() == facts["sha256"]
    head = ref.header(content)
    assert (head.flags, head.virtual_size, head.uuid) == tuple(
        facts["header"][key] for key in ("flags", "virtual_size", "uuid")
    )
    listed = facts.get("entries(offset,length,moffset,zeroed,tag)")
    if listed is None:
        return
    found = ref.index(content) if facts["trailer"] else ref.entries(content[ref.BLOCK :])
    valid = [entry for entry in found if not entry.is_padding]
    assert [[e.offset, e.length, e.moffset, int(e.zeroed), e.tag] for e in valid] == [
        row for row in listed if row[0] != ref.PADDING_OFFSET
    ]


@pytest.mark.parametrize(
    ("lowers", "flat"),
    [
        (["a.commit"], "a"),
        (["b.commit"], "b"),
        (["g.sealed"], "b"),
        (["g.commit"], "b"),
        (["b.lz4.commit"], "b"),
        (["b.lz4.tar"], "b"),
        (["b.zstd16.tar"], "b"),
        (["b.zstd64.mt.commit"], "b"),
        (["a.commit", "b.lz4.tar", "c.commit"], "abc"),
        (["abc.merged.raw"], "abc"),
        (["abc.merged.zfile"], "abc"),
        (["a.commit", "b.zstd16.tar", "d.commit"], "abd"),
        (["h.commit"], "h"),
        (["h.sealed"], "h"),
        (["m.commit"], "m"),
    ],
)
def test_layers_of_upstream_make_the_right_device(
    lowers: list[str], flat: str, place: Callable[[str], str]
) -> None:
    image = obdcore.Image([place(name) for name in lowers])
    device = contents(image)
    assert hashlib.sha256(device).hexdigest() == digest(flat)
    if not any("lz4" in name or "zstd" in name or "zfile" in name for name in lowers):
        layers = [golden(name) for name in lowers]
        assert ref.flat(ref.device_of_layers(layers, image.size)) == device


def test_sparse_upper_does_not_forget_discards_as_upstream_does(
    tmp_path: Path, place: Callable[[str], str]
) -> None:
    lines = golden("p.sparse-discard-lost.sha256").decode().splitlines()
    digests = {line.split()[1]: line.split()[0] for line in lines}
    data, index = str(tmp_path / "data"), str(tmp_path / "index")
    obdcore.lsmt_create(data, index, size=SIZE, sparse=True)
    lower = place("c.commit")
    for wanted in ("write", "only read"):
        image = obdcore.Image([lower], (data, index))
        if wanted == "write":
            image.discard(0, 1024 * 512)
            sector = [(5).to_bytes(8, "little") + j.to_bytes(8, "little") for j in range(8)]
            image.write_at(8 * 512, b"".join(part * 32 for part in sector))
        assert hashlib.sha256(contents(image)).hexdigest() == digests["p.insession"], wanted
        image.close()
    # The same data file as upstream sees it, by its holes alone.
    os.truncate(index, 0)
    image = obdcore.Image([lower], (data, index))
    assert hashlib.sha256(contents(image)).hexdigest() == digests["p.reopened"]


def test_index_of_the_base_layer_in_the_wild(tmp_path: Path) -> None:
    facts = json.loads(golden("ext4_64.json", GOLDEN / "legacy"))
    rows = [
        list(map(int, line.split()))
        for line in golden("ext4_64.index.txt", GOLDEN / "legacy").decode().splitlines()
        if re.fullmatch(r"[\d ]+", line)
    ]
    head, tail = facts["header"], facts["trailer"]

    def block(fields: dict[str, Any]) -> bytes:
        uuids = [(fields[key] + "\0").encode() for key in ("uuid", "parent_uuid")]
        numbers = [fields[key] for key in ("flags", "index_offset", "index_size", "virtual_size")]
        return ref.LAYOUT.pack(ref.MAGIC, 390, *numbers, *uuids, 0, 1, 1, b"").ljust(ref.BLOCK, b"\0")

    words = [(o | n << 50, m | z << 55 | t << 56) for o, n, m, z, t in rows]
    raw = b"".join(a.to_bytes(8, "little") + b.to_bytes(8, "little") for a, b in words)
    padding = (ref.PADDING_OFFSET.to_bytes(8, "little") + bytes(8)) * (tail["index_size"] - len(rows))
    path = tmp_path / "layer"
    with path.open("wb") as file:
        file.write(block(head))
        file.seek(tail["index_offset"])
        file.write(raw + padding + block(tail))
    info = obdcore.layer_info(str(path))["lsmt"]
    assert (info["kind"], info["index"]["segments"], info["index"]["padding"]) == ("committed", 8323, 125)
    assert info["header"]["uuid"] == head["uuid"]


# ---- what the core makes


def scribble(image: obdcore.Image, model: bytearray, seed: int) -> None:
    """Random writes and discards, of whole sectors and of odd bytes, to a device and to its model."""
    chance = random.Random(seed)
    for _ in range(40):
        length = chance.choice([512, 4096, 12288, 700])
        offset = chance.randrange(0, len(model) - length)
        if length != 700:
            offset -= offset % 512
        if chance.random() < 0.3:
            image.discard(offset, length)
            model[offset : offset + length] = bytes(length)
        else:
            data = chance.randbytes(length)
            image.write_at(offset, data)
            model[offset : offset + length] = data
    image.flush()


@pytest.mark.parametrize("sparse", [False, True], ids=["append", "sparse"])
def test_a_stack_that_grows_by_every_kind_of_layer(tmp_path: Path, sparse: bool) -> None:
    model = bytearray(SIZE)
    lowers: list[str] = []
    raw: list[bytes] = []
    ways = ["commit", "seal", "lz4", "zstd tar", "seal, commit"]
    for number, way in enumerate(ways):
        data, index = str(tmp_path / f"{number}.data"), str(tmp_path / f"{number}.index")
        obdcore.lsmt_create(data, index, size=0 if lowers else SIZE, sparse=sparse, parent_uuid=PARENT)
        image = obdcore.Image(list(lowers), (data, index))
        scribble(image, model, number)
        assert contents(image) == model
        image.close()
        if not sparse:
            below = ref.device_of_layers(raw, SIZE)
            pair = ref.device_of_pair(Path(data).read_bytes(), Path(index).read_bytes(), below)
            assert ref.flat(pair) == model
        plain = tmp_path / f"{number}.plain"
        result = obdcore.lsmt_commit(data, index, create(plain), uuid=UUID, tag=b"message")
        raw.append(plain.read_bytes())
        assert result["stored_size"] == result["layer_size"] == len(raw[-1])
        assert ref.flat(ref.device_of_layers(raw, SIZE)) == model
        for part in (ref.header(raw[-1]), ref.trailer(raw[-1])):
            assert (part.virtual_size, part.uuid, part.parent_uuid) == (SIZE, UUID, PARENT)
            assert (part.user_tag, part.size, part.version, part.sub_version) == (b"message", 390, 1, 1)
        lowers.append(finish(way, tmp_path / f"{number}.layer", data, index))
        image = obdcore.Image(list(lowers))
        assert contents(image) == model, way
        assert obdcore.layer_verify(lowers[-1])["lsmt"]["trailer"]["virtual_size"] == SIZE
    merged = tmp_path / "merged"
    obdcore.lsmt_merge(lowers, create(merged))
    assert ref.flat(ref.device_of_layers([merged.read_bytes()], SIZE)) == model
    assert ref.trailer(merged.read_bytes()).parent_uuid == PARENT


def finish(way: str, path: Path, data: str, index: str) -> str:
    """Makes a finished layer of a pair in the way named; returns its path."""
    if way == "commit":
        obdcore.lsmt_commit(data, index, create(path))
        return str(path)
    if "seal" in way:
        obdcore.lsmt_seal(data, index)
        sealed = Path(data).read_bytes()
        assert ref.index(sealed) is not None
        if way == "seal":
            return data
        obdcore.lsmt_commit(data, None, create(path))
        return str(path)
    algorithm, *wrap = way.split()
    obdcore.lsmt_commit(data, index, create(path), compress={"algorithm": algorithm}, tar=bool(wrap))
    info = obdcore.layer_info(str(path))
    assert info["zfile"]["algorithm"] == algorithm and ("tar" in info) == bool(wrap)
    return str(path)


def test_merging_with_the_upper_flattens_the_whole_device(
    tmp_path: Path, place: Callable[[str], str]
) -> None:
    upper = (place("d.data"), place("d.index"))
    lowers = [place("a.commit"), place("b.commit")]
    output = tmp_path / "merged"
    obdcore.lsmt_merge(lowers, create(output), upper=upper, tag=b"all of it")
    layer = output.read_bytes()
    assert hashlib.sha256(ref.flat(ref.device_of_layers([layer], SIZE))).hexdigest() == digest("abd")
    assert ref.trailer(layer).user_tag == b"all of it"


def test_imported_image_leaves_out_holes_and_zeros(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    content = bytes(8192) + b"a" * 4096 + bytes(4096) + b"b" * 300
    with source.open("wb") as file:
        file.write(content)
        file.truncate(SIZE)
    output = tmp_path / "layer"
    with source.open("rb") as file:
        result = obdcore.lsmt_import(file.fileno(), SIZE, create(output))
    layer = output.read_bytes()
    assert ref.flat(ref.device_of_layers([layer], SIZE)) == source.read_bytes()
    assert (result["data_size"], result["segments"]) == (8192, 2)


def test_resized_layer_says_so_in_both_files(tmp_path: Path) -> None:
    data, index = str(tmp_path / "data"), str(tmp_path / "index")
    obdcore.lsmt_create(data, index, size=SIZE)
    obdcore.lsmt_resize(data, index, 2 * SIZE)
    for path in (data, index):
        assert ref.header(Path(path).read_bytes()).virtual_size == 2 * SIZE
    assert obdcore.Image([], (data, index)).size == 2 * SIZE


# ---- refusals


def refusal(work: Callable[[], object]) -> obdcore.Error:
    with pytest.raises(obdcore.Error) as caught:
        work()
    return caught.value


def test_creation_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    data, index = tmp_path / "data", tmp_path / "index"
    index.write_bytes(b"mine")
    error = refusal(lambda: obdcore.lsmt_create(str(data), str(index), size=SIZE))
    assert (error.kind, error.file) == ("exists", str(index))
    assert not data.exists() and index.read_bytes() == b"mine"
    fresh = str(tmp_path / "other")
    bad: list[tuple[dict[str, Any], str]] = [
        ({"size": 1000}, "out-of-bounds"),
        ({"size": SIZE, "uuid": "no uuid"}, "invalid"),
        ({"size": SIZE, "tag": b"x" * 257}, "limit"),
    ]
    for options, kind in bad:
        with pytest.raises(obdcore.Error) as caught:
            obdcore.lsmt_create(str(data), fresh, **options)
        assert caught.value.kind == kind
        assert not data.exists() and not Path(fresh).exists()


def test_layer_in_use_is_left_alone(tmp_path: Path) -> None:
    data, index = str(tmp_path / "data"), str(tmp_path / "index")
    obdcore.lsmt_create(data, index, size=SIZE)
    image = obdcore.Image([], (data, index))
    for work in (
        lambda: obdcore.Image([], (data, index)),
        lambda: obdcore.lsmt_seal(data, index),
        lambda: obdcore.lsmt_commit(data, index, create(tmp_path / "out")),
    ):
        error = refusal(work)
        assert (error.kind, error.file, error.errno) == ("denied", data, 16)
        (tmp_path / "out").unlink(missing_ok=True)
    image.close()
    obdcore.lsmt_seal(data, index)


@pytest.mark.parametrize("end", ["zeros", "cut", "grown"])
def test_damaged_layer_is_refused(end: str, tmp_path: Path, place: Callable[[str], str]) -> None:
    path = Path(place("b.commit"))
    content = path.read_bytes()
    changed = {"zeros": content[:-4096] + bytes(4096), "cut": content[:-1], "grown": content + b"\0"}[end]
    path.write_bytes(changed)
    for look in (obdcore.layer_info, obdcore.layer_verify, lambda path: obdcore.Image([path])):
        error = refusal(lambda look=look: look(str(path)))  # type: ignore[misc]
        assert (error.kind, error.file) == ("corrupt", str(path))
        assert "trailer" in str(error)


def test_index_rules_are_checked_on_opening(place: Callable[[str], str]) -> None:
    path = Path(place("a.commit"))
    content = bytearray(path.read_bytes())
    at = ref.trailer(bytes(content)).index_offset
    content[at : at + 16], content[at + 16 : at + 32] = content[at + 16 : at + 32], content[at : at + 16]
    path.write_bytes(content)
    error = refusal(lambda: obdcore.Image([str(path)]))
    assert (error.kind, error.offset) == ("corrupt", at)


def test_what_is_no_layer_has_no_lsmt_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"text" * 5000)
    assert obdcore.layer_info(str(path)) == {"size": 20000}
    shutil.copyfile(path, tmp_path / "copy")
    assert refusal(lambda: obdcore.lsmt_commit(str(path), None, create(tmp_path / "out"))).kind == "corrupt"
