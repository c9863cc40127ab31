"""Forked processes. They have a copy of their parent's memory, but of its threads only the one that forked."""

import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

T = TypeVar("T")

_LONGEST_WAIT = 10.0  # seconds for a lock; longer if the thread that forks holds it itself, as in a signal handler
_actions: WeakKeyDictionary[Any, Callable[[Any], object]] = WeakKeyDictionary()
_locks: WeakSet["ForkLock"] = WeakSet()
_acquired: list["ForkLock"] = []
_turn = threading.Lock()  # two threads may fork at once


def after_fork(owner: T, action: Callable[[T], object]) -> None:
    """Call ``action(owner)`` first in each process that is forked from this one, as long as the owner exists."""
    _actions[owner] = action


def keep(owner: object) -> None:
    """Never free an object in this process, not even at its end: a native library would wait for lost threads."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))


class ForkLock:
    """Lock that a fork waits for, so that the forked process finds it free, and finds its data complete."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.settled = 0.0
        """The time until which a fork waits for a library's threads to come to rest. Whoever holds the lock sets it."""
        _locks.add(self)

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def _before() -> None:
    _turn.acquire()
    _acquired[:] = [fork_lock for fork_lock in list(_locks) if fork_lock.lock.acquire(timeout=_LONGEST_WAIT)]
    settled = max((fork_lock.settled for fork_lock in _acquired), default=0.0)
    while time.monotonic() < settled and _others_run():
        time.sleep(0.002)


def _others_run() -> bool:
    """Return whether another thread of this process runs, or waits only for a CPU: it may hold a library's lock."""
    try:
        threads = set(os.listdir("/proc/self/task")) - {str(threading.get_native_id())}
        states = [Path(f"/proc/self/task/{thread}/stat").read_text("utf-8").rpartition(")")[2] for thread in threads]
    except OSError:  # not Linux, or a thread has ended meanwhile
        return True
    return any(state.split()[0] == "R" for state in states)


def _in_parent() -> None:
    for fork_lock in _acquired:
        fork_lock.lock.release()
    _acquired.clear()
    _turn.release()


def _in_child() -> None:
    global _turn
    _turn = threading.Lock()
    _acquired.clear()
    for fork_lock in list(_locks):
        fork_lock.lock = threading.Lock()
    for owner, action in list(_actions.items()):
        action(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
