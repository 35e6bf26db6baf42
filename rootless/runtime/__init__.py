"""An OCI runtime: it starts a process from a config.json and a plain directory.

`host.parent` prepares on the host side and clones the container's init. `inside.init` does the rest
inside, in a flat list of steps, and ends in execve. `sync` is the protocol between the two.
`host.lifecycle` makes of these the operations of the OCI runtime specification, and `commands` is
their command line. Nothing here knows of images, networks or names: the engine does.
"""
