"""Verbs about containers."""
