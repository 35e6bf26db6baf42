"""What runs as the container's init, and ends in execve."""
