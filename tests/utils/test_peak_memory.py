import pytest
import torch

from skiplab.utils.peak_memory import peak_memory


def work(device: torch.device) -> torch.Tensor:
    kept = torch.zeros(1000, 100, device=device)
    large = torch.zeros(3000, 100, device=device)
    del large
    return kept


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_peak_counts_memory_that_is_freed_again(name: str) -> None:
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    device = torch.device(name)
    _ = torch.zeros(5000, 100, device=device)
    with peak_memory(device) as peak:
        kept = work(device)
    assert peak() == pytest.approx(4 * 400_000, rel=0.01)
    assert len(kept) == 1000


def test_without_allocations_the_peak_is_zero() -> None:
    with peak_memory(torch.device("cpu")) as peak:
        pass
    assert peak() == 0
