"""Rank correlation over all schedules, and among those of one speedup."""

from skiplab.search.rank_correlation import concordance, fidelity_table


def test_only_pairs_with_the_same_speedup_count() -> None:
    one, other = [1.0, 2.0, 5.0, 4.0, 9.0], [1.0, 3.0, 7.0, 8.0, 0.0]
    assert concordance(one, other, [2, 2, 3, 3, None]) == (1, 2)
    assert concordance([1.0, 1.0], [1.0, 2.0], [2, 2]) == (0, 0), "ties do not count"


def test_table() -> None:
    table = fidelity_table({"base": [1.0, 2.0, 3.0]}, {"perplexity": [3.0, 2.0, 1.0]}, [2, 2, 3])
    assert [cell.text for cell in table.lines[0]] == ["base", "perplexity", "3", "-1.00", "-1.00", "0 of 1"]
    assert fidelity_table({"base": [1.0]}, {"x": [1.0]}, [None]).lines[0][3].text == ""
