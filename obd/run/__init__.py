"""Containers of images without containerd: a device, a root file system upon it, and an OCI runtime."""
