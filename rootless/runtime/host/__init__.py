"""What runs outside: prepare, clone init, record, clean up."""
