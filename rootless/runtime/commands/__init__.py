"""The command line of `rless-oci`."""
