"""Image archives, read and written."""
