"""`build`: an image from a Dockerfile.

    plan        text and arguments -> stages -> steps, as data                       (pure)
    bases       looked up or pulled
    namespaces  one user namespace for the build; the builder enters it
    steps       the cache is asked; a miss is done by a process of its own
    record      config, history, names: once, at the end

The build process stays on the host, as the user: it plans, pulls, shows the progress, and records
the image. The builder is root in the namespaces of the build. It begins a step once those that it
needs are done: it looks for its key in the cache, or forks a process for it. So stages run side by
side, no step starts Python anew, and whatever a step does ends with its process.

A RUN is done like a container's start (`engine.spec`, `runtime.host.parent`), and the directory
that overlayfs has written becomes the layer, by a rename. COPY and ADD write the tar of a layer
into a pipe, which the unpacker of pulled layers reads. Sources are directory descriptors, of the
context or of a mounted stage, and every name is looked up beneath them.
"""
