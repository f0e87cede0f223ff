from __future__ import annotations

import threading

import pytest

from airflow_provider_sequentum.transfers import copying
from airflow_provider_sequentum.transfers.copying import Abandoned, Progress, copy_all


def expecting(files: int, size: int) -> Progress:
    progress = Progress()
    progress.expect(files, size)
    return progress


def test_results_come_in_order_and_no_more_than_the_workers_work_at_once() -> None:
    progress, lock = expecting(20, 0), threading.Lock()
    working, most = 0, 0

    def copy(item: int) -> int:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        progress.sleep(0.005)
        with lock:
            working -= 1
        return item * 2

    assert copy_all(range(20), copy, 3, progress, lambda _: None) == [item * 2 for item in range(20)]
    assert most <= 3


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_abandons_the_others_and_is_the_one_raised(error: BaseException) -> None:
    progress = expecting(50, 0)
    others_are_going = threading.Event()
    begun: list[int] = []

    def copy(item: int) -> None:
        begun.append(item)
        if item == 0:
            others_are_going.wait(5)
            raise error
        others_are_going.set()
        progress.sleep(60)

    with pytest.raises(type(error)) as raised:
        copy_all(range(50), copy, 2, progress, lambda _: None)
    assert raised.value is error
    assert len(begun) <= 4
    with pytest.raises(Abandoned):
        progress.moved(1)


def test_what_interrupts_the_caller_ends_the_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PROGRESS_INTERVAL", 0.01)
    progress = expecting(2, 0)

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_all([1, 2], lambda _: progress.sleep(60), 2, progress, interrupt)


def test_progress_says_files_mebibytes_and_speed() -> None:
    progress = expecting(3, 5 * 2**20)
    progress.moved(2**20)
    progress.finished()
    assert str(progress).startswith("1 of 3 files, 1.0 of 5.0 MiB, ")
    assert str(progress).endswith(" MiB/s")


def test_a_stop_before_the_copies_is_not_lost() -> None:
    progress = Progress()
    progress.stop()
    progress.expect(1, 1)
    with pytest.raises(Abandoned):
        progress.moved(1)
