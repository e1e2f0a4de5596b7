"""How the processes of one run learn that one of them has ended, at once and whatever the reason.

Every process keeps a connection to the first one. The kernel closes it when a process ends, so no
heartbeat can be late and no file system can hide it. Whoever learns of an end passes the exit code
on and leaves: a process that waits in a collective cannot be asked to.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import select
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from tvr_bench.errors import UserError

_LOOK_S = 1.0  # between two looks at the parent
_JOIN_S = 30.0  # to reach the first process
_LAST_WORDS_S = 3.0  # for the others to end by themselves before they are killed
_GRACE_S = 30.0  # for a run that is interrupted to write its checkpoint
_NEWS_S = 5.0  # for the reason of a broken connection to arrive
_EXIT_S = 20.0  # for a process that fails to end by itself
_LONGEST = 10_000  # bytes of a message
_ALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class Store(Protocol):
    """What is needed of a `torch.distributed.Store`."""

    def set(self, key: str, value: str) -> None:
        """Keep a value for all processes."""

    def get(self, key: str) -> bytes:
        """Return the value of a key, as soon as there is one."""


class Link:
    """This process's connections to the others of the run; a thread of its own listens."""

    def __init__(self, rank: int, world: int, parent: int | None = None) -> None:
        """Take the process `parent` without which this one is to end, if there is one."""
        self.rank, self.world, self.parent = rank, world, parent
        self.advice = "the same command goes on from the last checkpoint"
        self.leaving: tuple[int, str] | None = None  # after a process that was told to stop
        self.over = False
        self.peers: dict[socket.socket, _Peer] = {}
        self.lock = threading.RLock()
        self.selector = selectors.DefaultSelector()

    def open(self, store: Store, host: str, *, local: bool) -> None:
        """Listen, in the first process, else connect to it; `local`: all are on one machine."""
        if self.rank == 0:
            self._listen(store, local=local)
        else:
            self._connect(store, host)
        threading.Thread(target=self._watch, name="link", daemon=True).start()

    def end(self, code: int, text: str = "") -> None:
        """Say `text`, tell the others to leave with `code`, see that they do, and leave."""
        with self.lock:
            if self.over:
                _for_ever()
            self.over = True
        if text:
            print(f"tvr-bench: {' '.join(text.split())}", file=sys.stderr, flush=True)
        self.dismiss(code)
        os._exit(code)

    def fail(self, error: BaseException) -> None:
        """End all processes after an error; return in the first one, which is to raise it.

        The exit code is 2 after a UserError, which the first process says, and that of an exit.
        """
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):  # it ends already, for a better reason
                signal.signal(number, signal.SIG_IGN)
        if isinstance(error, RuntimeError):  # perhaps the mere echo of another process's end
            self._wait(_NEWS_S)
        code, calm = _code(error), isinstance(error, KeyboardInterrupt | SystemExit)
        if self.leaving is not None and not calm:
            self.end(*self.leaving)
        if self.rank == 0:
            with self.lock:
                if self.over:
                    _for_ever()
                self.over = True
            self.dismiss(code)
            # when it ends, what is left of its group may wait for the others
            atexit.register(_later, _EXIT_S, os._exit, code)
            return
        text = str(error) if isinstance(error, UserError) else ""
        if not text and not calm:
            traceback.print_exception(error)
            text = f"process {self.rank} of {self.world} failed ({type(error).__name__})"
            text = f"{text}, so the run is stopped; {self.advice}"
        self.tell(code=code, text=text, calm=calm)
        if not calm:
            self._wait(_EXIT_S)
        sys.stderr.flush()
        os._exit(code)

    def dismiss(self, code: int) -> None:
        """Tell the others to leave with `code`; kill those of this machine that do not."""
        self.tell(code=code)
        deadline = time.monotonic() + _LAST_WORDS_S
        for handle in [peer.handle for peer in list(self.peers.values())]:
            if handle is None:
                continue
            left = max(0.0, deadline - time.monotonic())
            if not select.select([handle], [], [], left)[0]:  # it can be read once it has ended
                with suppress(OSError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)

    def tell(self, **message: Any) -> None:
        """Send a message to all connected processes; those that are gone do not matter."""
        line = json.dumps(message).encode() + b"\n"
        for connection in list(self.peers):
            with suppress(OSError):
                connection.sendall(line)

    def close(self) -> None:
        """Say that this process has done its part, so that its end is no failure."""
        with self.lock:
            self.over = True
        self.tell(bye=True)

    def _wait(self, seconds: float) -> None:
        """Give the thread time to end this process."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.leaving is None:
            time.sleep(0.05)

    def _listen(self, store: Store, *, local: bool) -> None:
        server = socket.create_server(("127.0.0.1" if local else "", 0), backlog=self.world)
        self.token, self.local = secrets.token_hex(16), local
        self.selector.register(server, selectors.EVENT_READ)
        self.server = server
        store.set("link", json.dumps({"port": server.getsockname()[1], "token": self.token}))

    def _connect(self, store: Store, host: str) -> None:
        where = json.loads(store.get("link"))
        try:
            connection = socket.create_connection((host, where["port"]), timeout=_JOIN_S)
        except OSError:
            self.end(1)  # the first process is gone, and has said why
            raise AssertionError from None
        self._add(connection, _Peer(rank=0))
        self.tell(token=where["token"], rank=self.rank, pid=os.getpid())

    def _add(self, connection: socket.socket, peer: _Peer) -> None:
        connection.settimeout(_JOIN_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _ALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        self.peers[connection] = peer
        self.selector.register(connection, selectors.EVENT_READ)

    def _watch(self) -> None:
        while not self.over:
            for key, _ in self.selector.select(_LOOK_S):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if self.rank == 0 and connection is self.server:
                    self._add(connection.accept()[0], _Peer())
                else:
                    self._hear(connection)
            if self.parent is not None and os.getppid() != self.parent:
                self.end(1)

    def _hear(self, connection: socket.socket) -> None:
        peer = self.peers[connection]
        try:
            data = connection.recv(_LONGEST)
        except OSError:
            data = b""
        peer.buffer += data
        *lines, peer.buffer = peer.buffer.split(b"\n")
        for line in lines:
            self._act(peer, _read(line))
        stranger = peer.rank is None and (lines or len(peer.buffer) > _LONGEST)
        if not data or stranger:
            self.selector.unregister(connection)
            del self.peers[connection]
            connection.close()
            if peer.rank is not None and not peer.done:
                self._lost(peer.rank)

    def _act(self, peer: _Peer, message: Mapping[str, Any]) -> None:
        if peer.rank is None:
            if secrets.compare_digest(str(message.get("token")), self.token):
                peer.rank = message["rank"]
                peer.handle = _handle(message["pid"]) if self.local else None
        elif message.get("bye"):
            peer.done = True
        elif message.get("calm"):
            text = f"process {peer.rank} was told to stop, so the run is stopped; {self.advice}"
            peer.done, self.leaving = True, (message["code"], text)
            _later(_GRACE_S, self.end, *self.leaving)
        elif "code" in message:
            self.end(message["code"], message.get("text", ""))

    def _lost(self, rank: int) -> None:
        """End after the end of another process; one process alone says so."""
        if self.over:
            return
        text = f"process {rank} of {self.world} has died, so the run is stopped; {self.advice}"
        self.end(1, text if self.rank == (0 if rank else 1) else "")


class _Peer:
    """What is known of the other end of a connection."""

    def __init__(self, rank: int | None = None) -> None:
        self.rank = rank
        self.handle: int | None = None  # of a process of this machine, which its number is not
        self.done, self.buffer = False, b""


def _read(line: bytes) -> dict[str, Any]:
    """Return a message, an empty one for what none of ours has written."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _handle(pid: int) -> int | None:
    """Return what stands for a process even after its number has gone to another."""
    try:
        return os.pidfd_open(pid)
    except OSError:  # it has ended, or the system is too old
        return None


def _code(error: BaseException) -> int:
    """Return the exit code of a process that ends with an error."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, UserError) else 1


def _later(seconds: float, act: Callable[..., None], *arguments: Any) -> None:
    timer = threading.Timer(seconds, act, arguments)
    timer.daemon = True
    timer.start()


def _for_ever() -> None:
    """Wait for the thread that ends this process."""
    while True:
        time.sleep(60)
