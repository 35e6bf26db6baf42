"""Containers that the tasks of a parallel job share (--join)."""
