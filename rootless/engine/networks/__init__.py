"""Networks of several containers, and the containers attached to them."""
