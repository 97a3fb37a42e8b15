"""`obd run`: a command in a container of an image, by an OCI runtime and nothing else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tools.errors import Failure, say, tell
from tools.obd.common import log_to_stderr, service_option
from tools.options import Command, Namespace, flag, option, positional
from tools.stopping import stopping
from tools.values import Choice, Rejected

if TYPE_CHECKING:
    from obd.run.container import Container
    from obd.run.spec import Volume, Wishes

ROOT = "/var/lib/overlaybd/run"
# Of containers without the right to make devices and mounts.
_ROOT_ONLY = "obd: denied: run: devices, mounts and containers need root"


def run(args: Namespace) -> int:
    """Runs the command; returns the exit status: that of the command in the container."""
    log_to_stderr()
    if os.geteuid() != 0:
        raise Failure(_ROOT_ONLY)
    root = os.path.realpath(args.root)
    if args.list:
        return _list(root)
    with stopping():
        if args.remove:
            return _remove(root, args.remove)
        _clean(root, tell_count=args.clean)
        if args.clean:
            return 0
        return _run(args, root)


def _run(args: Namespace, root: str) -> int:
    from obd.run.run import Way, finish, keep_until_committed, run
    from obd.run.runtime import CommandFailed

    wishes = _wishes(args)
    container = _container(args, root)
    keep = True
    try:
        try:
            status = run(container, wishes, Way(args.via, args.service))
        except CommandFailed as error:
            raise Failure(f"obd: {error}", error.status) from None
        finally:
            keep = _is_kept(container)
        if args.commit:
            if status:
                say(f"obd: the command ended with {status}: not committed")
            else:
                wanted, keep = keep, True
                keep_until_committed(container)
                _commit(args, container)
                keep = wanted
        return status
    finally:
        if keep:
            say(f"obd: kept as {container.name} (--again {container.name}, --remove {container.name})")
        finish(container, keep=keep)


def _is_kept(container: Container) -> bool:
    record = container.read()
    return record is not None and record.written and not record.rm


def _container(args: Namespace, root: str) -> Container:
    """The new or old container that is to be run."""
    from obd.run.run import again, new

    runtime = args.runtime or ""
    if args.again:
        given = [name for name in ("name", "rm", "rw") if getattr(args, name)]
        if given:
            raise Failure(f"obd: invalid: run: --{given[0]} is for a new container, not with --again")
        container = again(root, args.again, runtime=runtime)
        record = container.read()
        if args.commit and record is not None and not record.rw:
            container.close()
            raise Failure(f"obd: invalid: run: --commit: {args.again} was made without --rw")
        return container
    if not args.image:
        raise Failure("obd: invalid: run: which image? (obd run IMAGE -- COMMAND)")
    if args.commit and not args.rw:
        raise Failure(
            "obd: invalid: run: --commit needs --rw: only what is written to a device becomes a layer"
        )
    from obd.oci.platform import own_platform
    from obd.run.image import find_image
    from obd.run.runtime import find_runtime
    from obd.service import Service

    find_runtime(runtime)
    image = find_image(args.image, Service(args.service), own_platform(), plain_http=args.http)
    return new(root, args.name or "", image, rw=args.rw, rm=args.rm, runtime=runtime)


def _wishes(args: Namespace) -> Wishes:
    from obd.run.spec import Wishes

    if args.tty and not os.isatty(sys.stdin.fileno()):
        raise Failure("obd: invalid: run: -t: stdin is no terminal")
    return Wishes(
        command=tuple([args.image, *args.words] if args.again and args.image else args.words),
        env=tuple(each for each in args.env if each),
        workdir=args.workdir,
        user=args.user,
        entrypoint=None if args.entrypoint is None else ((args.entrypoint,) if args.entrypoint else ()),
        volumes=tuple(args.volume),
        hostname=args.hostname or "",
        net=args.net,
        read_only=args.read_only,
        terminal=args.tty,
    )


def _commit(args: Namespace, container: Container) -> None:
    from obd.oci.platform import own_platform
    from obd.run.commit import commit
    from obd.service import Service
    from tools.bars import Bars

    with Bars("committing") as bars:

        def told(name: str, doing: str, done: int, total: int) -> None:
            bars.update(f"{name[:19]} {doing}", done, total or done, ended=0 < total <= done)
            bars.tick()

        service = Service(args.service)
        made = commit(container, args.commit, service, own_platform(), told, plain_http=args.http)
    say(f"obd: {made.digest} {args.commit}")


def _clean(root: str, *, tell_count: bool) -> None:
    from obd.run.run import clean

    count = clean(root, lambda line: say(f"obd: warning: {line}"))
    if tell_count:
        tell(f"{count} containers")


def _list(root: str) -> int:
    from obd.errors import line_of
    from obd.run.container import names
    from obd.run.run import look

    for name in names(root):
        try:
            state, record = look(root, name)
        except OSError as error:
            say(f"obd: warning: {name}: {line_of(error)}")
            continue
        if record is not None:
            tell(f"{name}\t{state}\t{record.image.name}\t{' '.join(record.command)}")
    return 0


def _remove(root: str, name: str) -> int:
    from obd.run.container import open_container
    from obd.run.run import remove

    remove(open_container(root, name))
    return 0


def _variable(word: str) -> str:
    """`NAME=VALUE`, or `NAME` for what that is here; "" if it is nothing here."""
    name, mark, _ = word.partition("=")
    if not name:
        raise Rejected("must be NAME=VALUE or NAME")
    return word if mark else f"{name}={os.environ[name]}" if name in os.environ else ""


def _volume(word: str) -> Volume:
    from obd.run.spec import Volume

    source, _, rest = word.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target.startswith("/") or mode not in ("", "ro", "rw"):
        raise Rejected("must be HOST:CONTAINER[:ro], CONTAINER beginning with /")
    if not os.path.exists(source):
        raise Rejected(f"{source} does not exist")
    return Volume(os.path.abspath(source), target, mode == "ro")


COMMAND = Command(
    "run",
    "Runs a command in a container of an image whose blocks are fetched when they are read.",
    options=[
        flag("--rm", help="remove what the container has written when it ends"),
        flag("--rw", help="a writable device of its own instead of an overlay upon that of all"),
        option(
            "--commit", metavar="IMAGE", help="with --rw: if the command succeeds, make a new image of it"
        ),
        option("--name", metavar="NAME", help="of a new container (default: one is made up)"),
        option("--again", metavar="NAME", help="start one that was kept; all words are the command then"),
        flag("--list", help="tell which containers there are, and nothing else"),
        option("--remove", metavar="NAME", help="remove one that was kept, and nothing else"),
        flag("--clean", help="tidy up after those that were killed (each run does), and nothing else"),
        option(
            "-e",
            "--env",
            metavar="NAME[=VALUE]",
            convert=_variable,
            repeat=True,
            help="environment, in addition",
        ),
        option("-w", "--workdir", metavar="DIR", help="where the command runs"),
        option("-u", "--user", metavar="USER[:GROUP]", help="who runs it: names of the image, or numbers"),
        option("--entrypoint", metavar="PROGRAM", help="instead of the image's; empty: none"),
        option(
            "-v",
            "--volume",
            metavar="HOST:CONTAINER[:ro]",
            convert=_volume,
            repeat=True,
            help="have a file or directory of this machine there",
        ),
        option("--net", metavar="host|none", convert=Choice("host", "none"), default="host", help="network"),
        option("--hostname", metavar="NAME", help="default: the container's name"),
        flag("--read-only", help="the command cannot write to the root file system"),
        flag("-t", "--tty", help="give it a terminal"),
        flag("-i", "--interactive", help="nothing: stdin is passed on anyway"),
        option("--runtime", metavar="PROGRAM", help="OCI runtime (default: runc, else crun, else youki)"),
        option(
            "--via",
            metavar="WAY",
            convert=Choice("auto", "ublk", "tcmu", "nbd", "fuse"),
            default="auto",
            help="how the device is attached, as of obd attach",
        ),
        option("--root", metavar="DIR", default=ROOT, help="where containers lie"),
        flag("--http", help="plain HTTP"),
        service_option(),
    ],
    positionals=[
        positional(
            "image",
            required=False,
            help="[http[s]://]REGISTRY/REPOSITORY[:TAG][@DIGEST], or an image configuration",
        ),
        positional(
            "words", required=False, repeat=True, help="behind --, the command (default: the image's)"
        ),
    ],
    details="Ends with the status of the command, 128 + n if signal n ended it, 127 or 126 if it cannot be "
    "run. Without --rm what it wrote is kept. Signals are passed on.",
    run=run,
)
