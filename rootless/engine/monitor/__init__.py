"""The program that stays with a container: how it is configured and executed."""
