"""The fronts: what rless is when it is called as apptainer, singularity, docker or podman.

A front has a command line, defaults and words of its own, and makes the same requests of the engine
as `rless` does: there is no second engine and no second storage. The launcher finds the front by
the name that it was called by, which is that of a link (`aliases`), and answers `--version` itself;
all else begins in `main`. `rless` loads nothing from here, except for its verb `alias`.
"""
