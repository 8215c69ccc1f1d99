"""How does a schedule run inside somebody else's training loop? One thin adapter per library, imported by its file."""
