"""What the paths of the API do: one module for each kind of thing."""
