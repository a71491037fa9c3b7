"""Deadlines: the time that is left, waits, and the calls that they interrupt."""

import threading

import pytest

from app.core.deadline import Deadline, check_deadline


def test_passes_by_time_or_by_expire() -> None:
    assert Deadline(0).has_passed
    assert Deadline(0).left() == 0
    deadline = Deadline()
    assert (deadline.has_passed, deadline.left(3)) == (False, 3)
    deadline.expire()
    assert (deadline.has_passed, deadline.left(3), deadline.wait(600)) == (True, 0, True)


def test_check_applies_to_its_block_and_thread() -> None:
    passed = Deadline(0)
    with passed.applied():
        with pytest.raises(TimeoutError):
            check_deadline()
        thread = threading.Thread(target=check_deadline)  # would end in an exception that pytest reports
        thread.start()
        thread.join()
    check_deadline()


def test_expire_interrupts_only_running_calls() -> None:
    deadline, interrupted = Deadline(), []
    with deadline.interrupting(lambda: interrupted.append("earlier")):
        pass
    with deadline.interrupting(lambda: interrupted.append("running")):
        deadline.expire()
    with deadline.interrupting(lambda: interrupted.append("later")):
        pass
    assert interrupted == ["running", "later"]
