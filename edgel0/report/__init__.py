"""What does a person see of a run? Tables on a terminal."""
