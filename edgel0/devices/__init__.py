"""How fast is an artefact on a board? Start a runner there, talk to it, and keep what it measured."""
