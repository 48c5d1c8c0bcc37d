"""The version, apart from all that has one."""

__version__ = "0.1.0"
