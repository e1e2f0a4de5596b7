"""Loaders that do not wait for ever: where no batch comes, their processes are ended.

DataLoader's own `timeout` sees an empty queue alone: it still waits for ever for a process that
hangs at the turn of an epoch, after it has announced a batch, and at the end.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch.utils.data import DataLoader

from tvr_bench.errors import UserError

_LOOKS = 8  # at the clock, in the time that a batch may take
_DEATH_S = 1.0  # after which a process that was killed is seen to be gone


class PatientLoader(DataLoader[Any]):
    """A DataLoader whose processes are killed where a batch takes longer than `patience` seconds.

    Its iterator then raises UserError. Without processes of its own it is a plain DataLoader.
    """

    def __init__(self, data: Any, *, patience: float, **keywords: Any) -> None:
        super().__init__(data, **keywords)
        self._watch = _Watch(patience)
        weakref.finalize(self, self._watch.end)

    def __iter__(self) -> Any:
        """Return the batches of an epoch."""
        if not self.num_workers:
            return super().__iter__()
        with self._watch.waiting():  # processes that are there already must get ready again
            self._watch.batches = super().__iter__()
        return self._batches(self._watch.batches)

    def _batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        try:
            while True:
                with self._watch.waiting():
                    batch = next(batches)
                yield batch
        except StopIteration:
            return


class _Watch:
    """Looks at the clock while a loader waits, and kills its processes when time is up."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.batches: Any = None  # DataLoader's own iterator, which has the processes
        self._owner = os.getpid()  # a process that loads batches has a copy of its own
        self._over = threading.Event()
        self._since: float | None = None
        self._acted = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the clock run, and say so where a batch fails because a process is gone.

        Raises UserError where it hung, else a RuntimeError with torch's words for one that died.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="patience", daemon=True)
            self._thread.start()
        self._since = time.monotonic()
        try:
            yield
        except (OSError, EOFError, RuntimeError) as error:  # what a process that is gone leads to
            if self.batches is None or not self._lost():
                raise
            if not self._acted:
                raise RuntimeError(f"a DataLoader worker was killed: {error}") from error
            raise UserError(
                f"no batch came for {self.patience:g} s: a process that loads batches hangs, as "
                "where a file system does not answer; mend that, or raise trainer.timeout, and "
                "repeat the command, which goes on from the last checkpoint"
            ) from error
        finally:
            self._since = None

    def end(self) -> None:
        """End the processes of a loader that is gone, or left over at Python's end.

        They are deaf to the signal by which Python ends processes, and it would wait for them.
        """
        self._over.set()
        if self.batches is not None and os.getpid() == self._owner:
            self.batches._shutdown_workers()
            self._kill()

    def _lost(self) -> bool:
        """Return whether a process is gone, after the others are ended.

        Torch's handler of signals says so wherever the main thread is, also here.
        """
        end = time.monotonic() + _DEATH_S
        while time.monotonic() < end:
            with suppress(RuntimeError):
                if not self._all_alive():
                    break
                time.sleep(_DEATH_S / 50)
        else:
            return False
        with suppress(RuntimeError):
            self.end()
        return True

    def _processes(self) -> list[Any]:
        return [] if self.batches is None else list(self.batches._workers)

    def _all_alive(self) -> bool:
        return all(process.is_alive() for process in self._processes())

    def _kill(self) -> None:
        for process in self._processes():
            process.kill()  # one that is stopped is deaf to all else

    def _look(self) -> None:
        while not self._over.wait(self.patience / _LOOKS):
            since = self._since
            late = since is not None and time.monotonic() - since > self.patience
            if late and self._all_alive():  # else DataLoader looks for the dead every 5 s
                self._acted = True
                self._kill()
                return
