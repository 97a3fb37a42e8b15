"""Images as mounted file systems without a kernel module: FUSE file, loop device, mount, keeper process."""
