"""Saved methods under lm-evaluation-harness; the import registers the model `skiplab`. Needs the extra `eval`."""

from skiplab.lm_eval.model import SavedMethodLM as SavedMethodLM
