"""What comes from elsewhere: URLs and git repositories as sources of ADD, and contexts of all kinds.

    places       what a text names                                              (pure)
    credentials  the secrets that are sent there
    download     a URL, over HTTP
    git          a commit of a repository, by the system's git behind `walls`
    archive      a tar that becomes a directory
    contexts     a directory from a URL, a repository, or standard input
    added        sources of ADD

All of it is hostile: who is named, what is answered, and what is in there (security classes 59 to
61). Nothing but http, https, ssh and git is spoken. What is fetched lies below the store's temporary
directory, and goes with the build.
"""
