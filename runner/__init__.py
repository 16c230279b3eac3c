"""An experiment runner: a durable queue, a scheduler on Ray, tracking, and resume."""
