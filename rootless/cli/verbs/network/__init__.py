"""Verbs about networks of several containers."""
