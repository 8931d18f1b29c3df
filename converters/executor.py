"""Work on items in parallel, results in the order of the items: in this process, in local ones, or on Ray.

What a worker does to itself (it dies, it hangs) costs the item that it worked on, and nothing else.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import TimeoutError as TimeLimitError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from multiprocessing import active_children, connection, get_context, parent_process, resource_tracker
from typing import TYPE_CHECKING, Any, TypeVar

from phi3v.schema import UserError
from phi3v.schema.errors import first_line, require

if TYPE_CHECKING:
    from pebble import ProcessPool

In = TypeVar("In")
Out = TypeVar("Out")

IN_FLIGHT = 4  # items a worker: enough that none waits, few enough that memory stays flat
REACH = 10.0  # seconds to reach a cluster
WORKER = "pebble_pool_worker"  # what pebble names its processes
RESTARTS = 3  # of a whole pool, without a result in between


@dataclass(frozen=True, slots=True)
class Lost:
    """The result of an item whose worker died or passed the time limit."""

    reason: str
    error: str
    what: str


def ordered_map(
    work: Callable[[In], Out], items: Iterable[In], *, jobs: int, time_limit: float
) -> Generator[tuple[In, Out | Lost], None, None]:
    """Yield each item with `work(item)`, in the order of the items.

    Args:
        work: a module-level function (or a partial of one); it and its items must pickle.
        items: consumed lazily; at most `IN_FLIGHT * jobs` are under way.
        jobs: worker processes; 1 works in this process, where a debugger works and no time limit holds.
        time_limit: seconds an item may take.

    Raises:
        whatever `work` raises, at the item's turn; the rest is cancelled.
    """
    if jobs == 1:
        for item in items:
            yield item, work(item)
        return
    pool = _LocalPool(jobs)
    try:
        yield from _in_order(partial(pool.start, work, time_limit), pool.result, items, ahead=IN_FLIGHT * jobs)
    finally:
        pool.stop()


def ray_map(
    work: Callable[[In], Out], items: Iterable[In], *, address: str | None, time_limit: float
) -> Generator[tuple[In, Out | Lost], None, None]:
    """Do as `ordered_map` does, on an existing Ray cluster.

    A node that is lost costs nothing: its items are done again elsewhere. On each node an item runs in a process
    below Ray's own worker, so that a death or a time limit means the same as it does locally.

    Args:
        work: as in `ordered_map`; the package that it is from must be installed on each node.
        items: as there.
        address: the cluster's; None takes the one that Ray finds on this machine.
        time_limit: as there.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached.
    """
    require("ray", "ray", "pebble")
    import ray

    _connect(address)
    # -1: only the loss of a node ends a task early, and that is to be repeated however often it happens.
    task = ray.remote(max_retries=-1, num_cpus=1)(_guarded)
    shared: Any = ray.put((work, time_limit))
    slots = max(1, int(ray.cluster_resources().get("CPU", 1)))
    try:
        yield from _in_order(lambda item: task.remote(shared, item), _ray_result, items, ahead=IN_FLIGHT * slots)
    finally:
        ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    try:
        if address and ":" in address:  # Ray itself tries for many minutes
            host, _, port = address.rpartition("//")[2].rpartition(":")
            socket.create_connection((host, int(port)), timeout=REACH).close()
        ray.init(address=address or "auto", log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        fix = "start one with `ray start --head`, or give its --ray_address"
        raise UserError(f"no Ray cluster at {address or 'hand'} ({first_line(error)})", fix=fix) from error


def _ray_result(started: Any) -> Any:
    import ray

    try:
        return ray.get(started)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def _in_order(
    start: Callable[[In], Any], result: Callable[[Any], Any], items: Iterable[In], *, ahead: int
) -> Iterator[tuple[In, Any]]:
    queue = iter(items)
    pending = deque((item, start(item)) for item in islice(queue, ahead))
    while pending:
        item, started = pending.popleft()
        value = result(started)
        pending.extend((item, start(item)) for item in islice(queue, 1))
        yield item, value


@dataclass(slots=True)
class _Task:
    """What was asked of a pool: enough to ask it again of the next one."""

    work: Callable[[Any], Any]
    item: Any
    time_limit: float
    pool: ProcessPool | None = None
    future: Any = None


class _LocalPool:
    """pebble's pool, replaced where a worker that dies between two items breaks it."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._strangers = set(active_children())
        self._pool = self._new()

    def start(self, work: Callable[[Any], Any], time_limit: float, item: Any) -> _Task:
        task = _Task(work, item, time_limit)
        self._schedule(task)
        return task

    def result(self, task: _Task) -> Any:
        from pebble import ProcessExpired

        for _ in range(RESTARTS):
            try:
                return task.future.result()
            except TimeLimitError:
                what = f"took longer than the time limit of {task.time_limit:g} seconds"
                return Lost("time-limit", "TimeoutError", what)
            except ProcessExpired as error:
                what = f"the worker process died on it ({_died_of(error.exitcode)})"
                return Lost("worker-died", "ProcessExpired", what)
            except BrokenProcessPool:
                self._schedule(task)
        raise UserError("worker processes die as they start", fix="try --jobs 1, which shows why")

    def stop(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        # First, since pebble takes the locks away before the processes, and one that still starts would look for them.
        for process in set(active_children()) - self._strangers:
            if process.name == WORKER:
                process.terminate()
        self._pool.join()

    def _schedule(self, task: _Task) -> None:
        """Give a task to the pool, or to a new one where the pool broke under it or broke unseen."""
        if task.pool is self._pool or not self._pool.active:
            self.stop()
            self._pool = self._new()
        task.pool = self._pool
        task.future = self._pool.schedule(task.work, (task.item,), timeout=task.time_limit)

    def _new(self) -> ProcessPool:
        from pebble import ProcessPool

        resource_tracker.ensure_running()  # now, since it unblocks Ctrl-C as it starts
        # Workers inherit that Ctrl-C is blocked: it is for this process, which ends them, and would otherwise
        # bring a traceback of each that is still importing.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            # spawn: fork deadlocks once a decoder or torch has started threads
            pool = ProcessPool(self._jobs, initializer=_end_with_parent, context=get_context("spawn"))
            assert pool.active, "asking starts its processes"
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pool


def _died_of(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _end_with_parent() -> None:
    """End this worker at once when its parent is killed, in the middle of an item, too."""
    parent = parent_process()
    assert parent is not None, "runs in workers only"

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@cache
def _guard() -> _LocalPool:
    return _LocalPool(1)


def _guarded(shared: tuple[Callable[[Any], Any], float], item: Any) -> Any:
    """Work on one item below a Ray worker, whose process and whose child live on for the next."""
    work, time_limit = shared
    return _guard().result(_guard().start(work, time_limit, item))
