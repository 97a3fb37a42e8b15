"""Where short-lived state goes."""

from obd.state import run_directory

__all__ = ["run_directory"]
