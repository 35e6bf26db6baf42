"""Trust: what policy.json demands of an image, and the signatures that answer it."""
