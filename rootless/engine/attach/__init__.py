"""The foreground of a container: streams, terminal, signals, exit code."""
