"""What an image says about itself: manifests, config, users."""
