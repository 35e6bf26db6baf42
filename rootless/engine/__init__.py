"""The container engine: what Docker does, from a command line to a container that runs.

`start.run` shows the order of the steps; the other modules do them.
"""
