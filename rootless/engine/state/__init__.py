"""What is on disk and alive: containers, volumes, events, processes."""
