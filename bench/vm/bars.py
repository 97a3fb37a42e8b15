"""What every benchmark in a guest must reach, and the kind of guest that it runs in."""

from bench.bars import Bar, at_least, at_most, value_at_most

GUESTS = {"tcmu": "uml", "life": "uml", "qemu": "qemu2"}

BARS: dict[str, dict[str, Bar]] = {
    # Peers: tcmu-runner serving the same content as qcow2, and the kernel's own fileio backstore on it.
    "tcmu": {
        "tcmu.randread_qd1.runner": at_least(1.0),
        "tcmu.randread_qd32.runner": at_least(1.0),
        "tcmu.seqread_1m.runner": at_least(0.8),
        "tcmu.randread_qd1.fileio": at_least(0.6),
        "tcmu.randread_qd32.fileio": at_least(0.6),
        "tcmu.seqread_1m.fileio": at_least(0.6),
    },
    # Peer of `attach`: the same steps in configfs for a backstore of the kernel's own.
    "life": {
        "life.attach": at_most(3),
        "life.daemon_mib": value_at_most(60),
        "life.device_mib": value_at_most(2),
        "life.attach_200_s": value_at_most(60),
        "life.detach_200_s": value_at_most(60),
        "life.recover_8_s": value_at_most(2),
    },
    # Peers: the same with one of the two processors; the same image by TCMU.
    "qemu": {
        "processors.randread_qd32": at_least(1.5),
        "ublk.randread_qd1": at_least(1.3),
        "ublk.randread_qd32": at_least(1.3),
    },
}
