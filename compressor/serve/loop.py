"""The thread that owns a backend: others hand it requests and get events, it steps as long as there is work.

    loop = Loop(make, queue_limit=64, observe=metrics.stepped); loop.start()
    ticket = loop.submit(request, on_event)      on_event is called in this thread, once for each event
    loop.cancel(ticket); loop.drain()

More than `queue_limit` requests beyond the batch are refused at once: a queue without end only hides that there is
no room.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from compressor.errors import RequestError
from compressor.serve.backend import Backend, Event, Request, Usage

Listener = Callable[[Event], None]


class QueueFullError(RequestError):
    """The queue is full; the same request may be taken a moment later."""


class ClosedError(RequestError):
    """The server drains, or its backend broke; it takes no more requests."""


@dataclass(eq=False)
class Ticket:
    """A request that was handed over; `number` is the backend's, once it has it."""

    request: Request
    listener: Listener
    number: int | None = None
    gone: bool = False  # cancelled or ended


class Loop:
    """Runs one backend in one thread."""

    def __init__(self, make: Callable[[], Backend], queue_limit: int, observe: Callable[[Usage, float], None]) -> None:
        self._make, self._queue_limit, self._observe = make, queue_limit, observe
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="backend", daemon=True)
        self._ready, self._lock = threading.Event(), threading.Lock()
        self._tickets: dict[int, Ticket] = {}  # by the backend's number
        self._open: set[Ticket] = set()  # handed over, and not ended
        self._closing = False
        self.failure: Exception | None = None
        self.usage: Usage

    def start(self) -> None:
        """Make the backend and begin. Raises: what the making raised."""
        self._thread.start()
        self._ready.wait()
        if self.failure:
            raise self.failure

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Raises: RequestError when it can never be served, QueueFullError, ClosedError."""
        self.backend.limits.check(request, self.backend.vocab)
        ticket = Ticket(request, listener)
        with self._lock:
            if self._closing or self.failure:
                raise ClosedError("the server is closing and takes no more requests")
            if len(self._open) >= self.backend.limits.max_batch + self._queue_limit:
                raise QueueFullError(f"{len(self._open)} requests are under way already; try again in a moment")
            self._open.add(ticket)
            self._commands.put(lambda: self._accept(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Its last event says `cancelled`, unless it had ended before."""
        self._commands.put(lambda: self._drop(ticket))

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more, finish what is under way, end the thread; false when that took longer than `timeout`."""
        with self._lock:
            self._closing = True
            self._commands.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.backend = self._make()
            self.usage = self.backend.usage()
        except Exception as error:
            self.failure = error
            return
        finally:
            self._ready.set()
        try:
            while self._obey():
                begin = time.perf_counter()
                events = self.backend.step()
                self.usage = self.backend.usage()
                self._observe(self.usage, time.perf_counter() - begin)
                for event in events:
                    self._tell(event)
        except Exception as error:  # a broken backend answers nobody: say so to all, and to those who ask for health
            with self._lock:
                self.failure = error
            for ticket in list(self._open):
                self._close(ticket, Event(ticket.number or 0, finish="failed", error=f"the backend broke: {error}"))

    def _obey(self) -> bool:
        """Carry out what was asked for; wait for it where there is nothing else to do. False: the end."""
        while not (self._closing and self._commands.empty()):
            try:
                command = self._commands.get(block=not self.backend.busy)
            except queue.Empty:
                return True
            if command is not None:
                command()
        return self.backend.busy

    def _accept(self, ticket: Ticket) -> None:
        if ticket.gone:
            self._close(ticket, Event(0, finish="cancelled"))
            return
        ticket.number = self.backend.submit(ticket.request)
        self._tickets[ticket.number] = ticket

    def _drop(self, ticket: Ticket) -> None:
        ticket.gone = True
        if ticket.number is not None:
            self.backend.cancel(ticket.number)

    def _tell(self, event: Event) -> None:
        ticket = self._tickets[event.number]
        if event.finish:
            del self._tickets[event.number]
            self._close(ticket, event)
        else:
            ticket.listener(event)

    def _close(self, ticket: Ticket, event: Event) -> None:
        with self._lock:
            self._open.remove(ticket)
        ticket.listener(event)
