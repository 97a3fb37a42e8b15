"""`obd run`: containers by runc and nothing else, of images read lazily, and what is left of them."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from obd.attach import attachments
from obd.attach.ways import way
from tests.e2e.commands import BIN, Done, ok
from tests.e2e.oci_images import Layer, Layout
from tests.e2e.servers import Registry

LACK = [name for name in ("runc", "busybox") if not shutil.which(name)]
WHY = f"not installed: {', '.join(LACK)}" if LACK else way("fuse").missing()
needs_containers = pytest.mark.skipif(bool(WHY), reason=f"no containers here: {WHY}")
pytestmark = needs_containers

RUN_S = 120
PROGRAMS = ("sh", "cat", "echo", "ls", "id", "pwd", "env", "sleep", "kill", "true", "hostname", "touch", "rm")
SETTINGS = {
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ["echo of the image"],
    "Env": ["PATH=/bin", "COLOUR=green"],
    "WorkingDir": "/work",
    "User": "worker",
}


def build(directory: Path, registry: Registry) -> None:
    """Pushes `app`, and `app:obd`, which is the same for us."""
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    base = Layer().add("bin", kind=b"5").add("bin/busybox", data=busybox, mode=0o755)
    for name in PROGRAMS:
        base.add(f"bin/{name}", kind=b"2", linkname="busybox")
    for name in ("etc", "proc", "sys", "dev", "work"):
        base.add(name, kind=b"5")
    base.add("etc/name", data=b"two\n").add("etc/text", data=b"no program\n", mode=0o755)
    # Leads to the file of this machine, if links are followed outside.
    base.add("etc/passwd", kind=b"2", linkname="../../../etc/users")
    base.add("etc/users", data=b"root:x:0:0::/:/bin/sh\nworker:x:1000:1001::/work:/bin/sh\n")
    base.add("etc/group", data=b"root:x:0:\nworkers:x:1001:\nothers:x:1002:worker\n")
    layout = Layout(directory / "layout")
    layout.tag(layout.image([base], config={"config": SETTINGS}), "v1")
    target = f"{registry.host}/app"
    ok("obd", "copy", f"oci:{directory}/layout:v1", f"http://{target}:v1")
    ok("obd", "convert", f"http://{target}:v1", f"http://{target}:obd")


@dataclass
class Host:
    """A machine on which `obd run` is used; all that it keeps is below `directory`."""

    directory: Path
    registry: Registry
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def image(self) -> str:
        """The image that can be run."""
        return f"{self.registry.host}/app:obd"

    def words(self, *words: str | Path) -> list[str | Path]:
        """The command line."""
        service, root = self.directory / "service.json", self.directory / "root"
        return [BIN / "obd", "run", "--via", "fuse", "--service", service, "--root", root, *words]

    def run(self, *words: str | Path, stdin: bytes = b"") -> Done:
        """Runs it to its end."""
        done = subprocess.run(
            self.words(*words), input=stdin, capture_output=True, timeout=RUN_S, check=False
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def sh(self, script: str, *words: str | Path, stdin: bytes = b"") -> Done:
        """Runs a script in a container that is removed."""
        return self.run("--rm", *words, self.image, "--", script, stdin=stdin)

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        """Starts it; returns when the command has written a line."""
        process = subprocess.Popen(
            self.words(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.started.append(process)
        assert process.stdout
        line = process.stdout.readline()
        assert line == b"ready\n", (line, process.communicate(timeout=RUN_S))
        return process

    def left(self) -> list[str]:
        """What is there of containers that do not run."""
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        images = list((self.directory / "run/images").glob("*"))
        containers = list((self.directory / "root/containers").glob("*"))
        return [
            *(point for point in mounts if point.startswith(f"{self.directory}/")),
            *(each.path for each in attachments()),
            *map(str, images + containers),
        ]

    def stop(self) -> None:
        """Ends what a test has left."""
        for process in self.started:
            process.kill()
            process.communicate(timeout=RUN_S)
        self.run("--clean")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    directory = tmp_path_factory.mktemp("registry")
    with Registry(directory) as registry:
        build(directory, registry)
        yield registry


@pytest.fixture
def host(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path / "run"))
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache"), "cacheSizeGB": 1}
    (tmp_path / "service.json").write_text(json.dumps({"cacheConfig": cache}))
    host = Host(tmp_path, registry)
    yield host
    host.stop()


def test_prints_and_ends_as_the_command_does(host: Host) -> None:
    done = host.sh("cat /etc/name; cat >&2; exit 42", stdin=b"said")
    assert (done.status, done.out, done.err) == (42, "two\n", "said"), done
    assert host.sh("sh -c 'kill -9 $$'; exit $?").status == 128 + 9
    assert host.left() == []


def test_is_as_the_image_says(host: Host) -> None:
    assert host.run("--rm", host.image).out == "of the image\n"
    done = host.sh("id; pwd; env; ls /proc/self/fd")
    assert done.out.startswith(
        "uid=1000(worker) gid=1001(workers) groups=1001(workers),1002(others)\n/work\n"
    )
    assert "COLOUR=green" in done.out.splitlines()
    assert done.out.split()[-4:-1] == ["0", "1", "2"], "no descriptor of ours"


def test_is_as_the_user_says(host: Host, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "in").write_text("from outside\n")
    script = "id -u; id -g; pwd; echo $COLOUR $MORE; hostname; cat /a/in; echo x >/a/out; echo x >/b/out"
    options = ["-u", "7:workers", "-w", "/etc", "-e", "COLOUR=red", "-e", "MORE=1", "--hostname", "there"]
    shared.chmod(0o777)
    done = host.sh(script, *options, "-v", f"{shared}:/a", "-v", f"{shared}:/b:ro")
    assert done.out == "7\n1001\n/etc\nred 1\nthere\nfrom outside\n"
    assert "Read-only file system" in done.err
    assert (shared / "out").read_text() == "x\n"
    assert "Read-only" in host.sh("echo x >/file", "--read-only", "-u", "0").err
    assert host.sh("ls /sys/class/net", "--net", "none").out.split() == ["lo"]
    assert host.run("--rm", "--entrypoint", "/bin/echo", host.image, "--", "a", "b").out == "a b\n"


def test_failures_have_names(host: Host) -> None:
    nope = host.run("--rm", "--entrypoint", "nope", host.image)
    assert (nope.status, "no such command" in nope.err) == (127, True)
    text = host.run("--rm", "--entrypoint", "/etc/name", host.image)
    assert (text.status, "cannot be run" in text.err) == (126, True)
    assert "no user 'nobody'" in host.sh("true", "-u", "nobody").err
    assert "no such OCI runtime" in host.sh("true", "--runtime", "no-runtime").err
    assert "obd convert" in host.run("--rm", f"{host.registry.host}/app:v1").err
    assert "not-found" in host.run("--rm", f"{host.registry.host}/app:v2").err
    assert host.left() == []
    host.registry.kill()
    try:
        away = host.sh("true")
    finally:
        host.registry.start()
    assert away.status == 255
    assert f"GET {host.registry.url}" in away.err
    assert host.left() == []


def test_signals_reach_the_command(host: Host) -> None:
    traps = "trap 'echo got TERM; exit 5' TERM; trap 'echo got USR1' USR1"
    script = f"{traps}; echo ready; while :; do sleep 0.1; done"
    process = host.start("--rm", host.image, "--", script)
    assert process.stdout
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == b"got USR1\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=RUN_S)[0] == b"got TERM\n"
    assert process.returncode == 5
    assert host.left() == []


def test_two_share_a_device_and_nothing_else(host: Host) -> None:
    script = "echo $NAME >/etc/name; echo ready; cat >/dev/null; cat /etc/name"
    both = [
        host.start("--rm", "-u", "0", "-e", f"NAME={name}", host.image, "--", script) for name in ("a", "b")
    ]
    assert len(attachments()) == 1
    assert [process.communicate(timeout=RUN_S)[0] for process in both] == [b"a\n", b"b\n"]
    assert host.left() == []


def test_a_container_is_kept_and_started_again(host: Host) -> None:
    first = host.run("--name", "web", "-u", "0", host.image, "--", "echo three >/etc/name")
    assert (first.status, "kept as web" in first.err) == (0, True)
    assert "there is one already" in host.run("--name", "web", host.image).err
    assert host.run("--list").out.split("\t")[:3] == ["web", "ended", host.image]
    assert host.run("--again", "web", "--", "cat /etc/name").out == "three\n"
    assert host.run("--remove", "web").status == 0
    assert host.left() == []
    assert "no such container" in host.run("--again", "web").err


def test_a_command_that_cannot_be_run_costs_what_is_kept_nothing(host: Host) -> None:
    assert host.run("--name", "web", "-u", "0", host.image, "--", "echo three >/etc/name").status == 0
    assert host.run("--again", "web", "--entrypoint", "nope").status == 127
    assert host.run("--again", "web", "--", "cat /etc/name").out == "three\n"


def test_what_was_written_outlives_its_record(host: Host) -> None:
    assert host.run("--name", "web", "-u", "0", host.image, "--", "echo three >/etc/name").status == 0
    record = host.directory / "root/containers/web/container.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "later": "version"}))
    assert host.run("--again", "web", "--", "cat /etc/name").out == "three\n"
    record.write_text("{")
    cleaned = host.run("--clean")
    assert (cleaned.out, f"corrupt: {record}" in cleaned.err) == ("0 containers\n", True)
    assert (record.parent / "upper/etc/name").read_text() == "three\n"
    listed = host.run("--list")
    assert (listed.status, "--remove" in listed.err) == (0, True)
    assert host.run("--remove", "web").status == 0
    assert host.left() == []


@pytest.mark.parametrize("rw", [(), ("--rw",)], ids=["overlay", "device"])
def test_what_could_not_be_unmounted_is_not_removed_either(host: Host, rw: tuple[str, ...]) -> None:
    process = host.start("--rm", *rw, host.image, "--", "echo ready; cat")
    [container] = (host.directory / "root/containers").iterdir()
    with (container / "run/rootfs/etc/name").open():
        _, said = process.communicate(timeout=RUN_S)
        assert (process.returncode, b"busy" in said) == (255, True), said
        assert [container] == list((host.directory / "root/containers").iterdir())
    assert host.run("--clean").out == "1 containers\n"
    assert host.left() == []


def test_what_was_written_becomes_an_image(host: Host) -> None:
    tag = f"{host.registry.host}/app:new"
    script = "echo four >/etc/name; rm /etc/text"
    failed = host.sh("false", "--rw", "--commit", tag)
    assert "not committed" in failed.err
    done = host.sh(script, "--rw", "--commit", tag, "-u", "0")
    assert done.status == 0, done.err
    assert host.left() == []
    assert host.run("--rm", tag, "--", "cat /etc/name; id -un; ls /etc").out.split()[:2] == ["four", "worker"]
    assert host.sh("cat /etc/name").out == "two\n"
    assert host.run("--commit", tag, host.image).status == 255


def test_what_could_not_be_committed_is_kept(host: Host) -> None:
    away = "127.0.0.1:1/app:new"
    done = host.sh("echo five >/etc/name", "--rw", "--commit", away, "-u", "0", "--name", "web")
    assert (done.status, "kept as web" in done.err) == (255, True)
    tag = f"{host.registry.host}/app:five"
    # `--rm` is for a container whose work is safe.
    assert host.run("--again", "web", "--commit", tag, "--", "true").status == 0
    assert host.run("--rm", tag, "--", "cat /etc/name").out == "five\n"
    assert host.run("--remove", "web").status == 0
    assert host.left() == []


@pytest.mark.parametrize("rw", [(), ("--rw",)], ids=["overlay", "device"])
def test_nothing_is_left_of_one_that_was_killed(host: Host, rw: tuple[str, ...]) -> None:
    process = host.start("--rm", *rw, host.image, "--", "echo ready; cat; while :; do sleep 1; done")
    process.kill()
    process.wait(RUN_S)
    assert host.left()
    assert host.run("--clean").out == "1 containers\n"
    assert host.left() == []


def test_one_that_was_killed_is_kept_if_that_was_wanted(host: Host) -> None:
    script = "echo six >/etc/name; echo ready; while :; do sleep 1; done"
    process = host.start("--name", "web", "-u", "0", host.image, "--", script)
    process.kill()
    process.wait(RUN_S)
    assert host.run("--list").out.split("\t")[:2] == ["web", "killed"]
    assert host.run("--again", "web", "--", "cat /etc/name").out == "six\n"


def test_an_image_configuration_can_be_run(host: Host, tmp_path: Path) -> None:
    config = tmp_path / "app.json"
    ok("obd", "pull", "--config", config, host.image)
    assert "no command" in host.run("--rm", config).err
    assert host.run("--rm", config, "--", "cat", "/etc/name").out == "two\n"
    assert host.left() == []


def test_an_end_while_it_starts_leaves_nothing(host: Host, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    os.mkfifo(marks)
    runtime = tmp_path / "slow"
    runtime.write_text(
        f'#!/bin/sh\ncase "$*" in *delete*) exit 0;; esac\necho began >{marks}\nexec sleep 100\n'
    )
    runtime.chmod(0o755)
    words = host.words("--rm", "--runtime", runtime, host.image)
    process = subprocess.Popen(words, stderr=subprocess.PIPE)
    host.started.append(process)
    assert marks.read_text() == "began\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=RUN_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert host.left() == []
