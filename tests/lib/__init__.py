"""What tests share: facts of the machine, programs compiled for tests."""
