"""One more process in a running container; health checks are such processes."""
