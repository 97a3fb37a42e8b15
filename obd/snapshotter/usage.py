"""What a directory takes on the disk, as du(1) counts it."""

import os

from obd.snapshotter.records import Usage


def usage_of(*directories: str, besides: str = "") -> Usage:
    """Bytes and inodes below some directories, each inode counted once; nothing that is mounted there.

    `besides` is not looked into. What goes away meanwhile is not counted.
    """
    seen: set[tuple[int, int]] = set()
    size = 0
    waiting = list(directories)
    while waiting:
        try:
            with os.scandir(path := waiting.pop()) as entries:
                inodes = [os.lstat(path)]
                for entry in entries:
                    if entry.path == besides:
                        continue
                    found = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        if found.st_dev == inodes[0].st_dev:
                            waiting.append(entry.path)
                    else:
                        inodes.append(found)
        except FileNotFoundError:
            continue
        for inode in inodes:
            if (key := (inode.st_dev, inode.st_ino)) not in seen:
                seen.add(key)
                size += 512 * inode.st_blocks
    return Usage(size, len(seen))
