"""Images that are one file: squashfs and SIF."""
