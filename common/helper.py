"""How is foreign code run on a target's bytes, which can make it loop, print, exhaust memory or crash?

In a child process that is kept between calls.  The kernel kills it when a call exceeds its processor time and refuses
it memory beyond a limit; its output is discarded; a dead child is replaced.

It is a fork, not a started program: a debugger's Python may have no executable, and starting one takes 15 ms.  An
intermediate process exits at once, so the child is not one of the debugger's children, which gdb waits for.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from _thread import allocate_lock
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, NoReturn, Optional

from .guards import try_optional

if TYPE_CHECKING:
    from _socket import socket as Socket

#: A function of a module that runs in the child: takes an item, and the descriptor of a file (-1: there is none).
Task = Callable[[bytes, int], bytes]


#: Processor time in seconds that the calls of one answer may take together, and the share of elapsed time that is
#: credited back: a trace is one answer, and can take hours.
ANSWER_SECONDS = 5.0
REFILL = 0.5
#: Address space that the child may use beyond that of the process that it is a copy of, in bytes.
MEMORY_BYTES = 256 << 20
#: The longest answer to one item, in bytes.
MAX_REPLY = 1 << 16

# How many items are asked for at once; if that fails, each is asked for alone.
_BATCH = 256
# By the clock a call may take longer than in processor time: the processor can be busy with others.
_CLOCK_FACTOR = 4
_CLOCK_SLACK = 2.0

_REQUEST = struct.Struct("<Id")  # the size of what follows, the task and items; seconds of processor time
_REPLY = struct.Struct("<Id")  # the size of what follows, the answers; seconds of processor time
_SIZE = struct.Struct("<i")
_DESCRIPTOR = struct.Struct("@i")
_NONE = -1

_CHANNEL = 3  # the child's only descriptor beyond the standard ones
_PR_SET_DUMPABLE = 4
_PROC = "/proc/self"
# Where /proc is not mounted:
_MOST_DESCRIPTORS = 4096
_MUCH_SPACE = 1 << 30


class Helper:
    """A child process that runs tasks; it is started on first use."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._owner = os.getpid()
        self._channel: Optional[Socket] = None
        self._between = 0
        self._left = ANSWER_SECONDS
        self._at = time.monotonic()
        #: How many items of this answer have no result.
        self.missing = 0

    def renew(self) -> None:
        """Begin another answer, which has the full processor time again."""
        self._left = ANSWER_SECONDS
        self.missing = 0

    def ask(self, task: Task, items: Sequence[bytes], seconds: float, descriptor: int = -1) -> list[Optional[bytes]]:
        """Return the results of ``task``, run in the child on each item.

        A result is empty if the task raises an exception, None if it exceeds ``seconds`` of processor time, the time
        left for the answer, or the memory limit.  Without fork, as on Windows, all results are empty.
        """
        if not hasattr(os, "fork"):
            return [b""] * len(items)
        with self._lock:
            found: list[Optional[bytes]] = []
            for start in range(0, len(items), _BATCH):
                batch = items[start : start + _BATCH]
                was_used = self._channel is not None
                replies = self._exchange(task, batch, seconds, descriptor)
                if was_used and replies is not None and None in replies:
                    # Earlier calls may have left it too little memory: the answer must not depend on them.
                    replies = self._exchange(task, batch, seconds, descriptor)
                if replies is None and len(batch) > 1:
                    replies = [(self._exchange(task, [item], seconds, descriptor) or [None])[0] for item in batch]
                found += replies or [None]
            self.missing += found.count(None)
            return found

    def _exchange(
        self, task: Task, items: Sequence[bytes], seconds: float, descriptor: int
    ) -> Optional[list[Optional[bytes]]]:
        """Ask once; return None if there is no answer, and then no child either."""
        began = time.monotonic()
        self._left = min(ANSWER_SECONDS, self._left + REFILL * (began - self._at))
        self._at = began
        if self._left < seconds:
            return None
        used = seconds
        deadline = began + _by_clock(seconds) + 1
        try:
            self._send(_packed([task.__module__.encode(), task.__name__.encode(), *items]), seconds, descriptor)
            size, used = _REPLY.unpack(self._receive(_REPLY.size, deadline))
            if size > len(items) * (MAX_REPLY + _SIZE.size) or not used >= 0:
                raise ValueError(f"a reply of {size} bytes")
            replies = list(_unpacked(self._receive(size, deadline)))
            if len(replies) != len(items):
                raise ValueError(f"{len(replies)} answers to {len(items)} items")
            if None in replies:
                self.close()  # the item that exhausted its memory may still hold some
            return replies
        except (OSError, RuntimeError, ValueError, struct.error):
            self.close()
            if time.monotonic() - began >= _by_clock(seconds):
                used = time.monotonic() - began
            return None
        except BaseException:
            self.close()
            raise
        finally:
            self._reap()
            # The child's own account of its time is believed within the limits of the clock.
            self._at = time.monotonic()
            self._left -= min(used, self._at - began)

    def _send(self, body: bytes, seconds: float, descriptor: int) -> None:
        """Send a request, to a new child if the previous one has ended since.

        :raises OSError: if it cannot be sent.
        """
        import _socket

        if self._owner != os.getpid():  # the child belongs to the process that this one was forked from
            self.close()
            self._owner = os.getpid()
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _DESCRIPTOR.pack(descriptor))] if descriptor >= 0 else []
        header = _REQUEST.pack(len(body), seconds)
        for is_last in (self._channel is None, True):
            if self._channel is None:
                self._channel, self._between = _start()
            self._channel.settimeout(_by_clock(seconds))
            try:
                self._channel.sendmsg([header], rights, _socket.MSG_NOSIGNAL)
                self._channel.sendall(body, _socket.MSG_NOSIGNAL)
                return
            except OSError:
                self.close()
                if is_last:
                    raise

    def _receive(self, size: int, deadline: float) -> bytes:
        """Receive exactly ``size`` bytes.

        :raises OSError: if they do not arrive in time.
        """
        assert self._channel is not None
        parts = []
        while size:
            self._channel.settimeout(max(0.001, deadline - time.monotonic()))
            part = self._channel.recv(min(size, 1 << 20))
            if not part:
                raise OSError("the child has ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _reap(self) -> None:
        """Wait for the process between us and the child, which has ended once the child answers."""
        pid, self._between = self._between, 0
        try:
            if pid:
                os.waitpid(pid, 0)
        except ChildProcessError:
            return  # another thread waits for all children, or their ends are ignored

    def close(self) -> None:
        """Close the channel to the child, which exits after its current request."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


@cache
def shared_helper() -> Helper:
    """Return the helper of this process."""
    return Helper()


def _by_clock(seconds: float) -> float:
    """Return the wall-clock limit of a call that is limited to ``seconds`` of processor time."""
    return _CLOCK_FACTOR * seconds + _CLOCK_SLACK


def _packed(items: Sequence[Optional[bytes]]) -> bytes:
    return b"".join(_SIZE.pack(_NONE) if item is None else _SIZE.pack(len(item)) + item for item in items)


def _unpacked(data: bytes) -> Iterator[Optional[bytes]]:
    """Yield the items that packed data consist of.

    :raises ValueError: if the data are malformed.
    """
    at = 0
    while at < len(data):
        (size,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size + max(0, size)
        if at > len(data) or size < _NONE:
            raise ValueError(f"an item of {size} bytes")
        yield None if size == _NONE else data[at - size : at]


# -- the child ---------------------------------------------------------------------------------------------------------


def _start() -> tuple[Socket, int]:
    """Start a child; return our end of its channel and the id of the intermediate process, which must be waited for.

    :raises OSError: if none can be started.
    """
    # Imported before the fork: a lock of the loader that another thread holds at the fork stays locked in the child.
    import _socket  # socket itself imports what takes 3 ms
    import ctypes  # noqa: F401
    import resource  # noqa: F401
    import signal

    here, there = _socket.socketpair()
    parent = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        between = _fork()
        if between == 0 and _fork() == 0:
            _serve(there)
    except BaseException:
        here.close()
        raise
    finally:
        if os.getpid() != parent:
            os._exit(0)
        there.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return here, between


if sys.version_info >= (3, 12):

    def _fork() -> int:
        import warnings

        with warnings.catch_warnings():
            # Other threads may hold locks: the deadline bounds what that can cost.
            warnings.simplefilter("ignore", DeprecationWarning)
            return os.fork()

else:

    def _fork() -> int:
        return os.fork()


def _serve(channel: Socket) -> NoReturn:
    """Answer requests until the channel is closed."""
    import gc

    gc.freeze()  # on deletion, inherited objects would close descriptors that are the child's now
    channel = _isolate(channel)
    tasks: dict[tuple[bytes, bytes], Task] = {}
    while True:
        _answer(channel, tasks)


def _isolate(channel: Socket) -> Socket:
    """Drop the parent's descriptors, terminal, working folder and signal handlers, and limit resources."""
    import _socket

    _limit_memory()
    os.dup2(channel.fileno(), _CHANNEL)
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(_CHANNEL):
        os.dup2(null, number)
    for number in _descriptors():
        if number > _CHANNEL:
            os.closerange(number, number + 1)  # the folder's own is closed already
    os.setsid()
    os.chdir("/")
    # A debugger's own streams would ask its user whether to continue.
    sys.stdout = sys.stderr = open(1, "w", closefd=False)  # noqa: SIM115 - it stays open
    sys.dont_write_bytecode = True
    # LLDB's stand-in for readline fails the import of pdb since Python 3.13, and elftools imports that: there is none.
    sys.modules["readline"] = None  # type: ignore[assignment]
    _reset_signals()
    return _socket.socket(fileno=_CHANNEL)


def _descriptors() -> Iterable[int]:
    try:
        return map(int, os.listdir(f"{_PROC}/fd"))
    except OSError:
        return range(_MOST_DESCRIPTORS)


def _address_space() -> int:
    """Return the size of this process's address space in bytes."""
    import resource

    try:
        with open(f"{_PROC}/statm", "rb") as stream:
            return int(stream.read().split()[0]) * resource.getpagesize()
    except OSError:
        return _MUCH_SPACE


def _limit_memory() -> None:
    import ctypes
    import resource

    cap = _address_space() + MEMORY_BYTES
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    cap = cap if hard == resource.RLIM_INFINITY else min(cap, hard)
    resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # a core that is piped into a program has no limit


def _reset_signals() -> None:
    import signal

    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails but does not kill
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _answer(channel: Socket, tasks: dict[tuple[bytes, bytes], Task]) -> None:
    """Answer one request."""
    import _socket

    header, rights, _, _ = channel.recvmsg(_REQUEST.size, _socket.CMSG_SPACE(_DESCRIPTOR.size))
    size, seconds = _REQUEST.unpack(header + _read(channel, _REQUEST.size - len(header)))
    module, name, *items = _unpacked(_read(channel, size))
    assert module is not None
    assert name is not None
    _limit_time(seconds)
    began = time.process_time()

    def find_task() -> Task:
        if (module, name) not in tasks:
            found = __import__(module.decode(), fromlist=[""])
            tasks[module, name] = getattr(found, name.decode())
        return tasks[module, name]

    descriptor = _DESCRIPTOR.unpack(rights[0][2])[0] if rights else -1
    replies = _packed([_call(find_task, item or b"", descriptor) for item in items])
    _limit_time(0)
    if descriptor >= 0:
        os.close(descriptor)
    channel.sendall(_REPLY.pack(len(replies), time.process_time() - began) + replies)


def _read(channel: Socket, size: int) -> bytes:
    """Read exactly ``size`` bytes.

    :raises EOFError: if the channel is closed.
    """
    parts = []
    while size:
        part = channel.recv(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _limit_time(seconds: float) -> None:
    """Limit this process's processor time, and its time by the clock to a multiple of that; 0: no limit."""
    import signal

    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, _by_clock(seconds) if seconds else 0)


def _call(find_task: Callable[[], Task], item: bytes, descriptor: int) -> Optional[bytes]:
    """Return a task's answer: empty if it raises an exception, None if it takes too much memory or is too long."""

    def use() -> Optional[bytes]:
        try:
            return find_task()(item, descriptor)
        except MemoryError:
            return None

    nothing: Optional[bytes] = b""
    reply = try_optional(use, nothing)
    return None if reply is None or len(reply) > MAX_REPLY else reply
