"""Layers: unpacked, converted, read and written."""
