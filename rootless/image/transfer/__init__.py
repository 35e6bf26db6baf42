"""Images in and out of the store: pull, push, load, import, remove."""
