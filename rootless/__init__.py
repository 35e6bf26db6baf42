"""Run containers without root: images, namespaces, an OCI runtime, in Python."""

__version__ = "0.1.0"
