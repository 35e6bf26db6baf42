"""What is shown: lists, inspection, statistics, logs."""
