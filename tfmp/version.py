"""The version, for the package, its files and the command line."""

VERSION = "0.1.0"
