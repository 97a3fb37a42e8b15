"""Mutation testing of Python's formats and cache: mutmut's mistakes, a process of its own for each."""

# What parses or holds data, by the names that `make mutants MODULE=` knows; `python` is all of it.
ROOMS = {
    "py-zfile": ("zfile",),
    "py-cache": ("cache",),
    "py-oci": ("obd/oci",),
    "py-config": ("obd/config",),
    "python": ("zfile", "cache", "obd/oci", "obd/config"),
}
