"""One verb a file: its option table and what it does with the values."""
