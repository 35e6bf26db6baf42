"""Verbs about volumes."""
