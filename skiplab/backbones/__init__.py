"""Model families, their shapes and their checkpoints."""
