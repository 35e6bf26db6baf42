"""Images as the verbs see them: lists, archives, registries."""
