"""A fresh Debian 12 in QEMU, on which README's lines for containerd are carried out as they stand.

usage: python -m tests.vm.clean_debian PACKAGE.deb [DIRECTORY]

The system is Debian's `important` packages with its kernel for virtual machines, made by mmdebstrap. It has
the package in `dist/` and lists of Debian's, knows the authority of a registry on this machine, which it sees
as registry.example.com, and says yes to apt. Printed is what each line said, its time, and the bytes that
came from the network. DIRECTORY, kept from another run, saves the time to make the system.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.commands import ok
from tests.e2e.containerd import PROGRAMS
from tests.e2e.nginx import Edge
from tests.e2e.oci_images import Layer, Layout
from tests.e2e.servers import Registry
from tests.e2e.tls import Authority
from tests.vm.readme import blocks_of_readme

NAME = "registry.example.com"
ADDRESS = "10.0.2.100"
IMAGE_MIB = 64
DISK_GIB = 6
LIMIT_S = 1800
KERNEL_ARGUMENTS = "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off quiet panic=-1"
MACHINE = """
    -nodefaults -no-user-config -display none -no-reboot -M q35 -accel tcg -cpu qemu64 -smp 1 -m 2048
    -device virtio-rng-pci
"""

# Runs what README says, line by line in one shell, and tells of each on the second serial line.
RUN = """\
#!/bin/bash
exec >/dev/ttyS1 2>&1 </dev/null
cd /root
received() {{ cat /sys/class/net/eth0/statistics/rx_bytes; }}
line() {{
  echo "[line] $1"
  local before=$(received) start=$EPOCHREALTIME status=0
  eval "$1" || status=$?
  echo "[done] $status $(( (${{EPOCHREALTIME/./}} - ${{start/./}}) / 1000 )) $(( $(received) - before ))"
  [[ $status = 0 ]] || {{ journalctl --no-pager -q -n 60; poweroff -f; }}
}}
until systemctl is-system-running | grep -qE 'running|degraded'; do sleep 1; done
uname -r
{lines}
poweroff -f
"""
UNIT = """\
[Unit]
After=multi-user.target
[Service]
ExecStart=/root/run
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Type=exec
"""


def main() -> int:
    """Carries all out; the status is 0 if each line succeeded and the container began lazily."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("directory", nargs="?", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clean-debian-") as room:
        home = Path(room)
        base = args.directory or home / "base"
        if not base.exists():
            make_system(base)
        with registry(home) as (authority, port):
            disk = prepare(home, base, args.package, authority)
            return judge(boot(disk, base, port))


def make_system(base: Path) -> None:
    """A fresh Debian in a directory."""
    words = ["--variant=important", "--include=linux-image-cloud-amd64,systemd-sysv"]
    words += ["--skip=cleanup/apt/lists"]  # as after `apt-get update`
    command = ["mmdebstrap", "--quiet", *words, "bookworm", str(base)]
    subprocess.run(command, check=True)


@contextlib.contextmanager
def registry(home: Path) -> Iterator[tuple[Path, int]]:
    """A registry with an ordinary image; the file of the authority that vouches for it, and its port."""
    authority = Authority(home / "tls")
    authority.sign("server", extension=f"subjectAltName=DNS:{NAME},DNS:localhost")
    with Registry(home / "registry") as behind, Edge(home / "edge", authority) as edge:
        edge.start(behind)
        layout = Layout(home / "layout")
        layout.tag(layout.image([root_layer()]), "v1")
        ok("obd", "copy", f"oci:{home}/layout:v1", f"http://{behind.host}/team/app:v1")
        yield authority.file, edge.port


def root_layer() -> Layer:
    """A root file system of which a shell needs little."""
    layer = Layer().add("bin", kind=b"5")
    layer.add("bin/busybox", data=Path(shutil.which("busybox") or "").read_bytes(), mode=0o755)
    for name in PROGRAMS:
        layer.add(f"bin/{name}", kind=b"2", linkname="busybox")
    for name in ("etc", "proc", "sys", "dev", "tmp"):
        layer.add(name, kind=b"5")
    return layer.add("big", data=os.urandom(IMAGE_MIB << 20))


def lines() -> list[str]:
    """The lines of README that install the program and start a container."""
    install = blocks_of_readme("Use it on a node")[0]
    start = blocks_of_readme("Use it with containerd")[0]
    return [line for line in f"{install}\n{start}".splitlines() if not line.startswith("make ")]


def prepare(home: Path, base: Path, package: Path, authority: Path) -> Path:
    """The disk of a machine that is to carry the lines out."""
    root = home / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", base, root], check=True)
    (root / "root/dist").mkdir()
    shutil.copy(package, root / "root/dist")
    certificates = root / "usr/local/share/ca-certificates"
    certificates.mkdir(parents=True, exist_ok=True)
    shutil.copy(authority, certificates / "registry.crt")
    with (root / "etc/hosts").open("a") as hosts:
        hosts.write(f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n")
    (root / "etc/apt/apt.conf.d/yes").write_text('APT::Get::Assume-Yes "true";\nquiet "1";\n')
    (root / "etc/network/interfaces.d/eth0").write_text("auto eth0\niface eth0 inet dhcp\n")
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    script = root / "root/run"
    script.write_text(RUN.format(lines="\n".join(f"line {shlex.quote(each)}" for each in lines())))
    script.chmod(0o755)
    units = root / "etc/systemd/system"
    (units / "readme.service").write_text(UNIT)
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "readme.service").symlink_to("/etc/systemd/system/readme.service")
    disk = home / "disk"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, disk, f"{DISK_GIB}G"], check=True)
    shutil.rmtree(root)
    return disk


def boot(disk: Path, base: Path, port: int) -> str:
    """What the machine has said; it ends by itself, or after a time."""
    (kernel,), (initrd,) = base.glob("boot/vmlinuz-*"), base.glob("boot/initrd.img-*")
    forward = f"guestfwd=tcp:{ADDRESS}:443-cmd:{shutil.which('busybox')} nc 127.0.0.1 {port}"
    words: list[str | Path] = ["qemu-system-x86_64", *MACHINE.split(), "-kernel", kernel, "-initrd", initrd]
    words += [
        "-append",
        KERNEL_ARGUMENTS,
        "-netdev",
        f"user,id=net,{forward}",
        "-device",
        "virtio-net-pci,netdev=net",
    ]
    words += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
    words += [
        "-serial",
        f"file:{disk}.console",
        "-chardev",
        "stdio,id=said,signal=off",
        "-serial",
        "chardev:said",
    ]
    said, end = [], time.monotonic() + LIMIT_S
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as machine:
        try:
            assert machine.stdout is not None
            for line in machine.stdout:
                print(line, end="", flush=True)
                said.append(line)
                assert time.monotonic() < end, "it takes too long"
        finally:
            machine.kill()
    if not said:
        print(Path(f"{disk}.console").read_text(errors="replace")[-4000:], file=sys.stderr)
    return "".join(said)


def judge(said: str) -> int:
    """Says what came of each line; 0 if all is well."""
    parts = re.findall(r"^\[line\] (.*?)\r?\n(.*?)^\[done\] (\d+) (\d+) (\d+)", said, flags=re.M | re.S)
    print("\nstatus   seconds   KiB received   line")
    for line, _, status, milliseconds, received in parts:
        print(f"{status:>6} {int(milliseconds) / 1000:9.1f} {int(received) >> 10:14,}   {line}")
    if len(parts) != len(lines()) or any(status != "0" for _, _, status, *_ in parts):
        print("a line has failed, or was never reached")
        return 1
    _, output, _, _, received = parts[-1]
    lazy = int(received) < (IMAGE_MIB << 20) // 4
    print(f"the container said {output.strip()!r}; of {IMAGE_MIB} MiB came {int(received) >> 10:,} KiB")
    return 0 if "hello" in output and lazy else 1


if __name__ == "__main__":
    sys.exit(main())
