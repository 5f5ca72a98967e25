"""Our Triton kernels against torch's operators."""

import pytest
import torch
import torch.nn.functional as F

from skiplab.kernels.support import has_kernels

if not (torch.cuda.is_available() and has_kernels(torch.device("cuda"))):
    pytest.skip("no GPU that Triton's kernels run on", allow_module_level=True)

from skiplab.kernels.triton_ops import copy_to_column, layer_norm, row_products

# The relative error of two roundings to the type.
DTYPES = {torch.float32: 1e-4, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}
dtypes = pytest.mark.parametrize(("dtype", "tolerance"), DTYPES.items(), ids=map(str, DTYPES))


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Check each element to within two roundings of its own size, or of a typical size if it is smaller."""
    torch.testing.assert_close(actual.float(), expected, rtol=tolerance, atol=0.1 * tolerance * float(expected.std()))


@dtypes
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("outputs", "inputs"), [(33, 24), (96, 2050), (40, 8193)])
def test_a_row_times_weights(
    outputs: int, inputs: int, biased: bool, count: int, dtype: torch.dtype, tolerance: float
) -> None:
    x = random(1, inputs, dtype=dtype)
    weights = [random(outputs, inputs, dtype=dtype) for _ in range(count)]
    biases = [random(outputs, dtype=dtype) if biased else None for _ in range(count)]
    found = row_products(x, weights, biases)
    assert len(found) == count
    for actual, weight, bias in zip(found, weights, biases, strict=True):
        assert actual.dtype == dtype
        close(actual, F.linear(x.float(), weight.float(), None if bias is None else bias.float()), tolerance)


@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 24), (5, 1, 2050), (3, 4, 4096)])
def test_layer_norm(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    x, weight, bias = (random(*size, dtype=dtype) for size in (shape, shape[-1:], shape[-1:]))
    x += 3
    expected = F.layer_norm(x.float(), shape[-1:], weight.float(), bias.float(), 1e-5)
    close(layer_norm(x, weight, bias, 1e-5), expected, tolerance)


@dtypes
def test_only_one_column_is_written(dtype: torch.dtype, tolerance: float) -> None:
    keys, values = random(3, 2, 16, 20, dtype=dtype), random(3, 2, 16, 20, dtype=dtype)
    before_keys, before_values = keys.clone(), values.clone()
    # As in attention modules: heads transposed to the front.
    key, value = (random(3, 1, 2, 20, dtype=dtype).transpose(1, 2) for _ in range(2))
    copy_to_column(key, value, keys, values, torch.tensor([5], device="cuda"))
    before_keys[:, :, 5:6], before_values[:, :, 5:6] = key, value
    assert torch.equal(keys, before_keys)
    assert torch.equal(values, before_values)


def test_a_column_out_of_range_is_not_written() -> None:
    keys, values, column = random(2, 2, 8, 4), random(2, 2, 8, 4), random(2, 2, 1, 4)
    before = keys.clone()
    copy_to_column(column, column, keys, values, torch.tensor([8], device="cuda"))
    assert torch.equal(keys, before)


def test_a_row_that_is_not_contiguous() -> None:
    x, weight = random(1, 48)[:, ::2], random(40, 24)
    close(row_products(x, [weight], [None])[0], F.linear(x, weight), 1e-4)


def test_more_weights_than_a_launch_takes_are_refused() -> None:
    with pytest.raises(ValueError, match="at most three weights, got 4"):
        row_products(random(1, 8), [random(8, 8)] * 4, [None] * 4)
