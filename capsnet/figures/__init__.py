"""Pictures of trained networks: one module a kind, what it shows computed apart from how it is drawn."""
