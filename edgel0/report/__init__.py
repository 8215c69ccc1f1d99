"""What does a person see of a run? Tables and progress on a terminal, pictures in its folder."""
