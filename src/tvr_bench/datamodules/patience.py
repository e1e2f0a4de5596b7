"""Loaders that do not wait for ever: where no batch comes, their processes are ended.

DataLoader's own `timeout` sees an empty queue alone: it still waits for ever for a process that
hangs at the turn of an epoch, after it has announced a batch, and at the end.

A signal that ends a run waits for the end of a step, which needs its batch: it is waited for a few
seconds then.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from tvr_bench import signals
from tvr_bench.errors import UserError

_LOOKS = 8  # at the clock, in the time that a batch may take
_LOOK_S = 1.0  # at most, between two looks
_LAST_S = 10.0  # that a batch may still take after a signal
_NO_FILES = ("Too many open files", "received 0 items of ancdata")  # no more could be opened
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
                yield batch if self.pin_memory else _copied(batch)
        except StopIteration:
            return


def _copied(batch: Any) -> Any:
    """Return a batch of its own; what came is an open file per tensor for as long as it is kept."""
    if isinstance(batch, dict):
        return {key: _copied(value) for key, value in batch.items()}
    return batch.clone() if isinstance(batch, Tensor) else batch


class _Watch:
    """Looks at the clock while a loader waits, and kills its processes when time is up."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.batches: Any = None  # DataLoader's own iterator, which has the processes
        self._owner = os.getpid()  # a process that loads batches has a copy of its own
        self._over = threading.Event()
        self._since: float | None = None
        self._acted = False
        self._signal = 0  # the one that has ended the wait
        self._thread: threading.Thread | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the clock run, and say so where a batch fails because a process is gone.

        Raises UserError where it hung, Stopped where a signal was not to wait for it, else a
        RuntimeError with torch's words for one that died.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="patience", daemon=True)
            self._thread.start()
        self._since = time.monotonic()
        try:
            yield
        except (OSError, EOFError, RuntimeError) as error:  # what a process that is gone leads to
            if any(words in str(error) for words in _NO_FILES):
                raise UserError(
                    "the processes that load batches need more open files than are allowed; say "
                    "`ulimit -n 4096` before, or lower trainer.workers"
                ) from error
            if self.batches is None or not self._lost():
                raise
            if not self._acted:
                raise RuntimeError(f"a DataLoader worker was killed: {error}") from error
            if self._signal:
                raise signals.Stopped(self._signal) from error
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
        while not self._over.wait(min(_LOOK_S, self.patience / _LOOKS)):
            if (since := self._since) is None:
                continue
            number, came = signals.received()
            now = time.monotonic()
            hurried = bool(number) and now - max(since, came) > _LAST_S
            # the dead are found by DataLoader, which looks every 5 s
            if (hurried or now - since > self.patience) and self._all_alive():
                self._acted, self._signal = True, number if hurried else 0
                self._kill()
                return
