"""An OCI runtime: config.json and a plain directory in, a running process out.

`parent` prepares on the host side and clones the container's init; `init` does the rest on
the inside, in a flat list of steps, and ends in execve. `sync` is what the two say to each
other. `lifecycle` gives that the verbs of the OCI runtime specification, `cli` their command
line. Nothing here knows of images, networks or names: the engine does.
"""
