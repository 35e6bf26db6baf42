"""What runs outside: prepare, clone init, record, end."""
