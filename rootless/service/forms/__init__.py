"""Docker's shapes: what the API's JSON looks like, made from the engine's records or read."""
