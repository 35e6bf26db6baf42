"""What Docker would do: from a command line to a container that runs.

`run` tells the story from top to bottom; the other modules are its chapters.
"""
