"""What this machine supports: facts that are read, their meaning, and how to change them."""
