"""Snapshots for containerd: a proxy plugin whose root file systems are devices that are read lazily.

`service` is what containerd calls; `snapshots` decides what each call means; `records` remembers, in one
SQLite database; what lies in directories is named by `layout`. Everything that may take long happens outside
of transactions, under a lock of the one snapshot.
"""
