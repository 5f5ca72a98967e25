"""What an experiment does, step by step."""
