"""Step 1a: from an image's name to its layers on disk.

A pull goes through these rooms: `model.reference` (what the name means), `registry` or `archive`
(untrusted bytes), `config.manifest` (what the bytes may say), `layer.tar_reader` and `layer.unpack`
(layers to directories, inside a user namespace), `store` (what is on disk; the only one that a
cached run needs). `transfer.pull` shows the order.
"""
