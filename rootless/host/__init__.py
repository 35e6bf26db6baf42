"""What this machine can do: facts read once, what each one means, and how to change it."""
