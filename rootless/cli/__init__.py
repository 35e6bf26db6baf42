"""The command line: option tables, the parser, one module a verb, the printing of results."""
