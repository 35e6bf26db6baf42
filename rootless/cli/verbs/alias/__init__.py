"""Verbs about the other names of rless."""
