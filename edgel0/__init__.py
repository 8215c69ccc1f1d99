"""From a PyTorch model and a budget to a smaller, verified, measured edge artefact."""

__version__ = "0.1.0.dev0"
