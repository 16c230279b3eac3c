"""How the schema of the queue came to be, revision by revision; Alembic runs them."""
