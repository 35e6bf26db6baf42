"""Interfaces, routes and packet filters, by rtnetlink and nf_tables."""
