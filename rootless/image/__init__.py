"""Step 1a: from an image's name to its layers on disk.

A pull goes through these rooms, each knowing only the next: `reference` (what the name means),
`registry` or `archive` (bytes from somewhere, none of them trusted), `manifest` (what the bytes
may say), `tarstream` and `unpack` (layers to directories, inside a user namespace), `store`
(what is on disk; the only one that a cached run needs).
"""
