import signal
import threading
from collections.abc import Iterator

import pytest

from skiplab.utils.interrupts import uninterrupted


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """SIGTERM raises SystemExit, as in a worker, and SIGINT KeyboardInterrupt, which a background job would ignore."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    own = {signal.SIGTERM: end, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_waits_for_the_end_of_the_block(number: signal.Signals, raised: type[BaseException]) -> None:
    handler, steps = signal.getsignal(number), []

    def write() -> None:
        with uninterrupted(), uninterrupted():
            signal.raise_signal(number)
            steps.append("written")

    with pytest.raises(raised):
        write()
    assert steps == ["written"]
    assert signal.getsignal(number) is handler


def test_a_second_signal_does_not_wait() -> None:
    steps: list[str] = []

    def write() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            steps.append("first")
            signal.raise_signal(signal.SIGINT)
            steps.append("second")

    with pytest.raises(KeyboardInterrupt) as caught:
        write()
    assert isinstance(caught.value.__context__, SystemExit)
    assert steps == ["first"]


def test_an_error_in_the_block_is_the_context_of_the_interrupt() -> None:
    def write() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("no store")

    with pytest.raises(KeyboardInterrupt) as caught:
        write()
    assert isinstance(caught.value.__context__, ValueError)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_threads_are_left_alone() -> None:
    handlers: list[object] = []

    def work() -> None:
        with uninterrupted():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]
