"""Text-to-text tasks: sources of examples, tokenization and batches."""
