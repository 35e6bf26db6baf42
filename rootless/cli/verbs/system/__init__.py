"""Verbs about rless itself and this host."""
