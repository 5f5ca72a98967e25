"""Text-to-text tasks: where examples come from, and how they become batches."""
