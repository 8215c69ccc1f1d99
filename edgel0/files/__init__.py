"""What is in a finished file? Its operators, tensors and figures, read without torch and without a runtime."""
