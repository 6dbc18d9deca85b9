"""Durable workflows: they order things and keep state; what is right is decided in domain."""
