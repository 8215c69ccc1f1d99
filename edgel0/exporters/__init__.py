"""How does a slimmed program become a file? Written, run in its own runtime, proven equal, and only then named."""
