"""Caches that are carried from machine to machine: --cache-to and --cache-from.

A carried cache is a manifest as an image has it: ordinary layers, and a config with the diff_ids of
the layers and the table of entries (`table`). So registries and OCI layouts keep it, and a layer
that an image has too is there once. An image can carry the table in its own config ("inline").

    exports   after the build: the table, the layers that the place lacks, the manifest last
    imports   before it: tables are read; a layer is fetched once something looks into it
    bringer   for the steps, which are in the namespaces of the build: brings layers on the host

Layers of base images are not carried: a base is pulled in any case. The table is believed as much
as the place that it comes from, as an image of that place would be. What it names is verified: each
blob by its digest, and each layer by its diff_id, which makes its name in the store.
"""
