"""What the user typed: option tables, the parser, one module a verb, the printing of results."""
