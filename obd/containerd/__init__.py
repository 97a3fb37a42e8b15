"""Containerd as a client sees it: the few calls that bringing an image there needs."""
