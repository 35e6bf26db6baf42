"""From a request to a running process: create, start, run."""
