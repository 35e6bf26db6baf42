"""From a request to the OCI config.json."""
