"""The task of documenting functions of the standard library."""

import pytest

from skiplab.data.python_docs import PythonDocs, functions

MODULE = '''
class A:
    async def run(self, x):  # a comment
        """Run it,
        at once.

        More of it.
        """
        return x

def bare(): return 1
def only():
    """Nothing else."""
'''


def test_a_function_gives_its_source_without_docstring_and_the_first_paragraph() -> None:
    assert list(functions(MODULE)) == [("async def run(self, x):\n    return x", "Run it, at once.")]
    assert list(functions("def f(:")) == []


def test_the_library_gives_thousands_of_pairs_in_disjoint_splits() -> None:
    splits = PythonDocs(longest_source=300, longest_doc=60).load()
    prompts = {name: set(rows["prompt"]) for name, rows in splits.items()}
    assert len(prompts["train"]) > 1000
    assert min(map(len, prompts.values())) > 50
    assert not prompts["train"] & prompts["test"] | prompts["train"] & prompts["valid"]
    assert all('"""' not in prompt for prompt in prompts["test"])
    with pytest.raises(ValueError, match="longest_source must be at least 100"):
        PythonDocs(longest_source=5)
