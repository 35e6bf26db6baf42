"""Networks of several containers, and who is attached to them."""
