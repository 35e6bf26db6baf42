"""What scripts/bench measures, one topic a module."""
