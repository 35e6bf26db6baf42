"""Verbs about the service of Docker's API."""
