"""A guest: a kernel in a process of the host, which sees the host's files and can change none of them."""

import json
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.vm import kernels
from tests.vm.kernels import HERE, Kernel, Unavailable

PROJECT = HERE.parents[1]
JAIL = (sys.executable, "-I", "-S", HERE / "jail.py")
KINDS = ("uml", "qemu", "qemu2")
QEMU_DATA = ("/usr/share/qemu", "/usr/share/seabios")
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
MEMORY_MIB = 3072
END_S = 120.0
CONSOLE_TAIL_CHARACTERS = 6000

# The call left out measures algorithms of RAID 6 for most of the time that the boot takes.
UML_ARGUMENTS = """
    root=none rootfstype=hostfs rootflags=/ uml_dir=/dev/shm con=null ssl=null
    initcall_blacklist=raid6_select_algo
"""
QEMU_ARGUMENTS = (
    "root=host rootfstype=virtiofs mitigations=off nokaslr no_timer_check tsc=reliable random.trust_cpu=on"
)
ARGUMENTS = "ro quiet panic=-1 audit=0 console=ttyS0"
QEMU_MACHINE = """
    -nodefaults -no-user-config -display none -no-reboot -M q35 -accel tcg -cpu qemu64
    -numa node,memdev=memory
    -device virtio-rng-pci -device vhost-user-fs-pci,queue-size=1024,chardev=root,tag=host
"""


class Lost(Exception):
    """The guest died, or gives no sign of life; the text says which."""


def check_jail() -> None:
    """Raises `Unavailable` where processes cannot be put into the jail."""
    try:
        kernels.run(*JAIL, "true")
    except Unavailable as e:
        raise Unavailable(
            f"guests need root with namespaces of its own: {str(e).rpartition('jail: ')[2]}"
        ) from e


class Guest:
    """A guest that runs one shell command in the project's directory.

    Its kind is `uml`, `qemu`, or `qemu2`, which has two processors. Its `memory_mib` are taken from the host
    as it touches them. With `terminal` its console is this process's terminal, else a file.
    Raises `Unavailable` where there can be no such guest.
    """

    def __init__(
        self, kind: str, command: str, *, terminal: bool = False, memory_mib: int = MEMORY_MIB
    ) -> None:
        check_jail()
        kernel = kernels.uml() if kind == "uml" else kernels.cloud()
        self._directory = Path(tempfile.mkdtemp(prefix="guest-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._memory_mib = memory_mib
        try:
            self._control, far = socket.socketpair()
            self._write_job(kind, kernel, command)
            with far, (self._directory / "console").open("wb") as console:
                if kind == "uml":
                    self._start_uml(kernel, far, None if terminal else console)
                else:
                    self._start_qemu(kernel, far, None if terminal else console, 2 if kind == "qemu2" else 1)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "Guest":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        self.stop()

    def messages(self, silence_s: float) -> Iterator[dict[str, Any]]:
        """What the guest tells, until the command has ended; the last message is `{"ended": status}`.

        Raises `Lost` if the guest dies or tells nothing for `silence_s` seconds.
        """
        self._control.settimeout(silence_s)
        rest = b""
        while True:
            try:
                data = self._control.recv(1 << 16)
            except TimeoutError:
                raise Lost(f"the guest told nothing for {silence_s:g} s") from None
            if not data:
                raise Lost("the guest died")
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                yield message
                if "ended" in message:
                    return

    def console(self) -> str:
        """The end of what the kernel and the command have printed."""
        text = (self._directory / "console").read_bytes().decode(errors="replace").replace("\r", "")
        return text.partition("\nkmsg_dump:\n")[0][-CONSOLE_TAIL_CHARACTERS:]  # there UML says all again

    def stop(self) -> None:
        """Ends the guest with all its processes; it has nothing to lose."""
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait(END_S)
        self._processes.clear()
        self._control.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _write_job(self, kind: str, kernel: Kernel, command: str) -> None:
        """Writes what `init` finds beside it, in a directory whose name a kernel's command line can hold."""
        shutil.copy(HERE / "init", self._directory)
        variables = {
            "PATH": f"{Path(sys.executable).parent}:{kernels.ENVIRONMENT['PATH']}",
            "HOME": str(Path.home()),
            "LC_ALL": "C.UTF-8",
            "TMPDIR": "/run/tmp",
            "OVERLAYBD_GUEST": kind,
            **{name: value for name, value in os.environ.items() if name.startswith("RIGS_")},
        }
        job = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        job += [f"cd {shlex.quote(str(PROJECT))}", command]
        (self._directory / "job").write_text("".join(f"{line}\n" for line in job))
        (self._directory / "settings").write_text(f"modules={shlex.quote(str(kernel.modules))}\n")

    def _start_uml(self, kernel: Kernel, far: socket.socket, console: IO[bytes] | None) -> None:
        """Starts User Mode Linux: the host's files are its root as they are."""
        lines = (f"ssl0={'null' if console else 'fd:0'},fd:1", f"ssl1=fd:{far.fileno()}")
        words: list[str | Path] = [
            kernel.image,
            f"mem={self._memory_mib}M",
            *UML_ARGUMENTS.split(),
            *lines,
            *self._arguments(),
        ]
        # Its kernel and its programs are processes that take turns: 5 times faster when none has to be woken
        # on another processor.
        one = str(random.choice(sorted(os.sched_getaffinity(0))))
        environment = ("env", f"LD_PRELOAD={kernels.xstate()}", "TMPDIR=/dev/shm")
        self._start(["taskset", "--cpu-list", one, *environment, *words], console, far)

    def _start_qemu(
        self, kernel: Kernel, far: socket.socket, console: IO[bytes] | None, processors: int
    ) -> None:
        """Starts QEMU, and a server beside it that shares the host's files."""
        # With several processors the QEMU of Debian 12 lets a guest die now and then.
        program = "qemu-system-x86_64" if processors == 1 else kernels.emulator()
        for needed in (program, VIRTIOFSD):
            if not shutil.which(needed, path=kernels.ENVIRONMENT["PATH"]):
                raise Unavailable(f"no program {needed}")
        with socket.socket(socket.AF_UNIX) as files:
            files.bind(path := str(self._directory / "files"))
            files.listen(1)
            server = (VIRTIOFSD, f"--fd={files.fileno()}", "-f", "-o", "source=/,cache=always,sandbox=chroot")
            self._start(server, console, files)
        devices = (
            "-chardev",
            f"socket,id=root,path={path}",
            "-chardev",
            f"socket,id=control,fd={far.fileno()}",
        )
        lines = (
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
            "-serial",
            "chardev:control",
        )
        data = (word for path in QEMU_DATA for word in ("-L", path))
        words: list[str | Path] = [*QEMU_MACHINE.split(), "-smp", str(processors), *data, *devices, *lines]
        backend = f"memory-backend-memfd,id=memory,size={self._memory_mib}M,share=on"
        words += ["-m", str(self._memory_mib), "-object", backend]
        append = " ".join((*QEMU_ARGUMENTS.split(), *self._arguments()))
        self._start([program, *words, "-kernel", kernel.image, "-append", append], console, far)

    def _arguments(self) -> list[str]:
        """What either kernel is told."""
        return [*ARGUMENTS.split(), f"init={self._directory}/init"]

    def _start(self, command: Sequence[str | Path], console: IO[bytes] | None, handed: socket.socket) -> None:
        """Starts a program in the jail, with a descriptor that it is handed."""
        process = subprocess.Popen(
            (*JAIL, *command),
            stdin=subprocess.DEVNULL if console else None,
            stdout=console,
            stderr=subprocess.STDOUT if console else None,
            env=kernels.ENVIRONMENT,
            pass_fds=[handed.fileno()],
            start_new_session=True,
        )
        self._processes.append(process)
