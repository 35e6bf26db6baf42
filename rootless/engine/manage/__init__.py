"""Changing containers that exist: stop, pause, update, remove."""
