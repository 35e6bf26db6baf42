"""The metadata of images: manifests, config, users."""
