"""Files of containers: copy, export, diff, commit."""
