"""Docker's HTTP API on a unix socket of the user: `rless service`.

The truth is on disk and in the kernel, as for the command line. The service remembers only what
belongs to an open connection, so it may be killed at any moment, and several may serve one storage.

    main         where the socket is, and how long the service lives
    server       who may connect, and how many
    connection   HTTP/1.1 on one connection, and its takeover for streams
    http         requests, answers, the limits of both, the status of an error
    routes       path -> endpoint
    inputs       what a query or a body asks for
    children     work that takes long or forks: in a child process
    sessions     containers with a client: starts, attached streams, waits
    endpoints/   a module for each group of paths
    forms/       Docker's shapes: JSON of the API <-> records of the engine
"""
