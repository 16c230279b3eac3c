"""Revisions of the queue's schema, from the first to the present one; Alembic runs them."""
