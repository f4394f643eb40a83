"""The version of dmmc."""

VERSION = "0.2.0"
