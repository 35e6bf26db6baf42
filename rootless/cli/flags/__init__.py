"""The values of flags: text in, plain value out, one module a subject."""
