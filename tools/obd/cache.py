"""`obd cache`: looks after the cache directory, beside the devices that use it."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Final

from tools.errors import FAILED, Failure, describe, say, tell
from tools.obd.common import amount, service_option
from tools.options import Command, Namespace, flag, option, positional
from tools.progress import Progress
from tools.values import non_negative

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import obdcore

# Before the names of what was held against a hash tree: docs/formats/merkle.md.
_PROVED: Final = "tree:"
# Before the names of what targets in gzip unpack to: docs/formats/turbooci.md.
_UNPACKED: Final = "unpacked:"


def stat(args: Namespace) -> int:
    """Runs `obd cache stat`; returns the exit status."""
    directory = _directory(args)
    entries = sorted(_open(directory).entries(), key=lambda blob: blob["tick"], reverse=True)
    blobs = [{**blob, "last_use": _last_use(directory, blob["digest"])} for blob in entries]
    facts: dict[str, Any] = {
        "directory": directory,
        "bytes": sum(blob["bytes"] for blob in blobs),
        "free_bytes": _free(directory),
        "blobs": blobs,
    }
    if args.json:
        tell(json.dumps(facts, indent=2))
        return 0
    for blob in blobs:
        tell(_line(blob))
    sums = (
        f"{len(blobs)} blobs, {amount(facts['bytes'])} on disk, {amount(facts['free_bytes'])} free beside it"
    )
    tell(f"{directory}: {sums}")
    return 0


def verify(args: Namespace) -> int:
    """Runs `obd cache verify`; returns the exit status."""
    return _check(args, repair=False)


def repair(args: Namespace) -> int:
    """Runs `obd cache repair`; returns the exit status."""
    return _check(args, repair=True)


def evict(args: Namespace) -> int:
    """Runs `obd cache evict`; returns the exit status."""
    cache = _open(_directory(args))
    chosen = [args.blob != [], args.all, args.down_to is not None]
    if sum(chosen) != 1:
        raise Failure("obd: evict wants either digests, or --down-to, or --all")
    status = 0
    if not args.blob:
        wanted = args.down_to or 0
        left = cache.shrink(wanted)
        tell(f"{amount(left)} left")
        if left > wanted:
            say("obd: the rest is pinned, or open in a process")
            status = FAILED
    for digest in _names(cache, args.blob):
        try:
            freed = cache.evict(digest)
        except OSError as error:
            say(f"obd: {describe(error)}")
            status = FAILED
            continue
        if freed is None:
            say(f"obd: {digest}: a process has it open")
            status = FAILED
        else:
            tell(f"{digest}: {amount(freed)} freed")
    return status


def pin(args: Namespace) -> int:
    """Runs `obd cache pin`; returns the exit status."""
    return _pin(args, pinned=True)


def unpin(args: Namespace) -> int:
    """Runs `obd cache unpin`; returns the exit status."""
    return _pin(args, pinned=False)


def _pin(args: Namespace, *, pinned: bool) -> int:
    cache = _open(_directory(args))
    for digest in _digests(args.blob):
        changed = cache.pin(digest, pinned)
        tell(f"{digest}: {'' if changed else 'already '}{'pinned' if pinned else 'not pinned'}")
    return 0


def _check(args: Namespace, *, repair: bool) -> int:
    directory = _directory(args)
    cache = _open(directory)
    digests = list(_names(cache, args.blob)) or [blob["digest"] for blob in cache.entries() if blob["chunks"]]
    results: list[dict[str, Any]] = []
    with Progress(f"verifying {os.path.basename(directory)}") as progress:
        for number, digest in enumerate(digests):
            progress(number, len(digests))
            try:
                results.append({"digest": digest, **cache.check(digest, repair=repair)})
            except OSError as error:
                results.append({"digest": digest, "right": False, "error": describe(error)})
    if args.json:
        tell(json.dumps(results, indent=2))
    else:
        for result in results:
            tell(_verdict(result, repair))
    left = [result for result in results if "error" in result or not (repair or result["right"])]
    return FAILED if left else 0


def _verdict(result: dict[str, Any], repair: bool) -> str:
    """What was found of one blob, in a line."""
    digest = result["digest"]
    if "error" in result:
        return f"{digest}: {result['error']}"
    checked = f"{digest}: {result['checked']} chunks checked"
    if result["right"]:
        return f"{checked}, all right" + (", digest right" if result["digest_matches"] else "")
    what = f"{len(result['bad'])} wrong" if result["bad"] else "WRONG DIGEST: it came like that"
    done = ", dropped" if repair else ""
    if repair and result["in_use"]:
        done += " (a process has it open: what that one has checked before it uses until it ends)"
    return f"{checked}, {what}{done}"


def _line(blob: dict[str, Any]) -> str:
    notes = [name for name in ("pinned", "in_use") if blob[name]]
    if not blob["chunks"]:
        return f"{blob['digest']}  {amount(blob['bytes'])}  no map: not used, the first to go"
    there = f"{blob['present']}/{blob['chunks']} chunks"
    used = f"used {blob['last_use'] or 'never'}"
    return "  ".join([blob["digest"], amount(blob["bytes"]), there, used, *notes]).replace("in_use", "in use")


def _last_use(directory: str, digest: str) -> str | None:
    """When the map was written last: when chunks came, or when the blob was closed. None without a map."""
    try:
        seconds = os.stat(os.path.join(directory, f"{digest}.map")).st_mtime
    except OSError:
        return None
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _digests(words: list[str]) -> Iterator[str]:
    """Each word is a name in the cache, or the image configuration whose layers are meant.

    What was held against a hash tree has a name of its own.
    """
    from obd.config import load_image

    for word in words:
        if word.startswith(("sha256:", _PROVED, _UNPACKED)):
            yield word
            continue
        for lower in load_image(word).data_lowers:
            if lower.digest:
                yield lower.digest
                if lower.merkle:
                    yield _PROVED + _hex(lower.digest) + _hex(lower.merkle.root)


def _names(cache: obdcore.ChunkCache, words: list[str]) -> Iterator[str]:
    """The names that words mean, of those that are there: of a digest also what was held against a tree."""
    there = [entry["digest"] for entry in cache.entries()] if words else []
    told = set()
    for digest in _digests(words):
        proved = [name for name in there if name.startswith(_PROVED + _hex(digest))]
        found = [name for name in (digest, *proved) if name in there]
        # One that is not there is told so, unless it is there by the other name.
        if not found and not digest.startswith(_PROVED):
            found = [digest]
        for name in found:
            if name not in told:
                told.add(name)
                yield name


def _hex(digest: str) -> str:
    return digest.partition(":")[2]


def _directory(args: Namespace) -> str:
    if args.dir:
        directory = str(args.dir)
    else:
        from obd.config import load_service

        settings = load_service(args.service).cache
        if settings.type != "file":
            raise Failure(f"obd: cacheType {settings.type} has no directory of blobs; --dir names one")
        directory = settings.dir
    if not os.path.isdir(directory):
        raise Failure(f"obd: {directory}: no such directory")
    return os.path.realpath(directory)


def _open(directory: str) -> obdcore.ChunkCache:
    import obdcore

    # Neither capacity nor free space make it evict anything: only what is asked for is done.
    return obdcore.ChunkCache(directory, 1 << 62, min_free_bytes=0)


def _free(directory: str) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


_WHERE = [
    option("--dir", metavar="DIR", help="the cache directory (default: that of the service configuration)"),
    service_option(),
]
_JSON = flag("--json", help="for programs")


_SOME = positional("blob", repeat=True, help="digests, or image configurations whose layers are meant")
_ANY = positional("blob", repeat=True, required=False, help=f"{_SOME.help}; none: all that are there")
_THESE = positional("blob", repeat=True, required=False, help=_SOME.help)

COMMAND = Command(
    "cache",
    "Looks after the cache of remote layers, beside the devices that use it.",
    subcommands=[
        Command("stat", "Tells what is in the cache.", options=[*_WHERE, _JSON], run=stat),
        Command(
            "verify",
            "Reads what is in the cache and compares it with checksums and digests.",
            options=[*_WHERE, _JSON],
            positionals=[_ANY],
            run=verify,
        ),
        Command(
            "repair",
            "As verify, and drops what is wrong: it is fetched again when it is wanted.",
            options=[*_WHERE, _JSON],
            positionals=[_ANY],
            run=repair,
        ),
        Command(
            "evict",
            "Removes blobs, or what was used longest ago. Blobs that are open or pinned stay.",
            options=[
                *_WHERE,
                option("--down-to", metavar="BYTES", convert=non_negative, help="until that much is left"),
                flag("--all", help="everything"),
            ],
            positionals=[_THESE],
            run=evict,
        ),
        Command(
            "pin",
            "Keeps blobs, there or still to come, from being evicted by any process.",
            options=_WHERE,
            positionals=[_SOME],
            run=pin,
        ),
        Command(
            "unpin",
            "Takes pins away.",
            options=_WHERE,
            positionals=[_SOME],
            run=unpin,
        ),
    ],
)
