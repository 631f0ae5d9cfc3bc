"""Several processes, or ranks, on one quantization: `torchrun --nproc-per-node 2 -m cli quantize ...`.

    rank 0          runs the command as if it were alone; what it does with data is a job for all
    every other     follows: waits for a job, does the same work on its share, drops its own result, waits again

Calibration batches are shared out, sums and maxima of statistics are taken over all ranks, columns of weights are
solved by different ranks and put side by side: the bytes are those of one process with as many threads as each rank
(OMP_NUM_THREADS; torchrun makes it 1 where it is not set). Numbers travel by gloo (CPU) or nccl (CUDA), jobs and the
end by the store of the launcher. Every exchange begins by asking whether all are well, so what fails in one rank ends
all with its line and its exit code; a rank that is lost breaks the exchange of the others. Outside a job each function
here is the identity.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from compressor.errors import BUG, MACHINE_CANNOT, OUT_OF_MEMORY, CompressError, MachineError, RequestError, in_a_line
from compressor.progress import Track, identity

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)  # of an exchange: ranks that share work alike do not wait longer for each other
WHOLE_COMMAND = timedelta(days=7)  # that a rank waits for a job: rank 0 may export for hours before
FAREWELL = timedelta(seconds=10)  # that rank 0 waits for the others to have read how it ended


class LostError(MachineError):
    """A rank has gone without a word, or has not spoken for `PATIENCE`."""


class ToldError(CompressError):
    """What went wrong in another rank, with the exit code that it had there."""

    def __init__(self, rank: int, line: str, exit_code: int) -> None:
        super().__init__(f"rank {rank}: {line}")
        self.exit_code = exit_code


@dataclass
class _Team:
    """What the ranks of a command have in common."""

    rank: int
    count: int
    store: Any = field(repr=False)
    jobs: int = 0  # handed out so far
    working: bool = False


_teams: list[_Team] = []  # the one that this process has joined


def join() -> None:
    """Meet the other ranks, where torchrun's variables say. Raises: MachineError when they cannot be met."""
    try:
        store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
        store.set_timeout(PATIENCE)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise MachineError(f"the other ranks cannot be met: {in_a_line(error)}; start all with torchrun") from None
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
    _teams[:] = [_Team(rank, count, store)]
    if rank == 0:
        signal.signal(signal.SIGTERM, _told_to_end)


def follow() -> int:
    """What every rank but the first does until the first has ended: its jobs. Returns the exit code of the first."""
    (team,) = _teams
    while True:
        team.jobs += 1
        with _connected():
            team.store.wait([f"job {team.jobs}"], WHOLE_COMMAND)
            job = pickle.loads(team.store.get(f"job {team.jobs}"))  # written by rank 0 of this very command
        if isinstance(job, int):
            team.store.set(f"rank {team.rank} has read the end", "")
            return job
        with tempfile.TemporaryDirectory(prefix="compress-rank-") as folder, contextlib.suppress(Exception), _told():
            work, given, recipe = job
            work(given, recipe, Path(folder), identity)


def dismiss(code: int) -> None:
    """Tell the other ranks that the command has ended, and how."""
    (team,) = _teams
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(RuntimeError):  # who is lost needs no telling
        _hand_out(team, code)
        others = range(1, team.count)
        team.store.wait([f"rank {rank} has read the end" for rank in others], FAREWELL)


def led(work: Callable[[Any, Any, Path, Track], T], given: object, recipe: Any, folder: Path, track: Track) -> T:
    """`work` done by all ranks where it looks at data. Raises: what any of them raises."""
    if not _teams or not recipe.quantize.calibrated:
        return work(given, recipe, folder, track)
    _hand_out(_teams[0], (work, given, recipe))
    with _told():
        return work(given, recipe, folder, track)


def leads() -> bool:
    """Whether this process is the one that writes: the first rank, or the only one."""
    return not _teams or _teams[0].rank == 0


def count() -> int:
    """Ranks at work."""
    return _teams[0].count if _at_work() else 1


def threads() -> int:
    """Threads for an ONNX Runtime session of this rank, as many as torch has; 0: one for each core."""
    return torch.get_num_threads() if _at_work() else 0


def mine(batches: Sequence[T]) -> Sequence[T]:
    """This rank's share, in the order of the ranks. Raises: RequestError when there is not one for each."""
    if len(batches) < count():
        raise RequestError(f"calibration: {len(batches)} batches for {count()} ranks; bring more data or start fewer")
    return batches[share(len(batches))]


def share(size: int) -> slice:
    """Which of `size` things are this rank's, all alike."""
    rank = _teams[0].rank if _at_work() else 0
    return slice(size * rank // count(), size * (rank + 1) // count())


def total(values: Tensor) -> Tensor:
    """The sum over all ranks."""
    return _reduced(values, dist.ReduceOp.SUM)


def in_turn(parts: Sequence[Tensor], add: Callable[[int], None]) -> None:
    """Sums over the batches of all ranks in the order that one process has, so that their bits are the same.

    `add(i)` adds this rank's batches to parts[i], which goes from rank to rank; while one adds to a part, the one
    before it adds to the next.
    """
    if not _at_work():
        for index in range(len(parts)):
            add(index)
        return
    _agree()
    rank, last, sent = _teams[0].rank, count() - 1, list[Any]()
    for index, part in enumerate(parts):
        if rank > 0:
            _received(part, lambda buffer: dist.recv(buffer, rank - 1))
        add(index)
        if rank < last:
            with _connected():
                sent.append(dist.isend(part.contiguous(), rank + 1))
    with _connected():
        for one in sent:
            one.wait()
    for part in parts:
        _received(part, lambda buffer: dist.broadcast(buffer, last))


def largest(values: Tensor) -> Tensor:
    """The maximum over all ranks."""
    return _reduced(values, dist.ReduceOp.MAX)


def gathered(value: T) -> list[T]:
    """The value of every rank, in their order."""
    if not _at_work():
        return [value]
    _agree()
    return _exchanged(value)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all ranks' parts, one below the other, on the device of this rank's."""
    return torch.cat(gathered(torch.cat(list(parts)).cpu())).to(parts[0].device)


def _at_work() -> bool:
    return bool(_teams) and _teams[0].working


def _reduced(values: Tensor, operation: Any) -> Tensor:
    if _at_work():
        _agree()
        with _connected():
            dist.all_reduce(values, operation)
    return values


def _received(part: Tensor, receive: Callable[[Tensor], object]) -> None:
    """Fill a part, which may be a view, from the buffer that an exchange needs."""
    buffer = part.contiguous()
    with _connected():
        receive(buffer)
    part.copy_(buffer)


def _exchanged(value: T) -> list[T]:
    values: list[Any] = [None] * _teams[0].count
    with _connected():
        dist.all_gather_object(values, value)
    return values


def _agree(error: Exception | None = None) -> None:
    """Ask whether all are well. Raises: what the first rank that is not has to say; the job is over for all."""
    failed, team = torch.tensor([int(error is not None)]), _teams[0]
    with _connected():
        dist.all_reduce(failed)
    if failed:
        said = _exchanged(None if error is None else _portable(error))
        team.working = False
        rank, portable = next((rank, one) for rank, one in enumerate(said) if one)
        raise error if error and rank == team.rank else ToldError(rank, *portable)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A job: what goes wrong in it is told to all, once."""
    team = _teams[0]
    team.working = True
    try:
        yield
        _agree()
    except LostError:
        raise
    except Exception as error:
        if team.working:
            _agree(error)
        raise
    finally:
        team.working = False


def _portable(error: Exception) -> tuple[str, int]:
    """An error as it travels: its line and its exit code. The traceback of a bug is said where it happened."""
    if isinstance(error, CompressError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY, MACHINE_CANNOT
    traceback.print_exception(error)
    said = " ".join(str(error).split())
    return f"this is a bug in compress: {type(error).__name__}: {said}. Please report the lines above", BUG


def _hand_out(team: _Team, job: Any) -> None:
    team.jobs += 1
    team.store.set(f"job {team.jobs}", pickle.dumps(job))


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Raises: LostError where an exchange breaks off."""
    try:
        yield
    except RuntimeError as error:
        raise LostError(f"another rank was lost ({in_a_line(error)}); start the command again") from None


def _told_to_end(number: int, frame: FrameType | None) -> NoReturn:
    """What SIGTERM does to rank 0, so that it leaves nothing half-written: launchers send it once a rank has ended."""
    del number, frame
    raise LostError("told to end by SIGTERM, as launchers do when another rank is lost; start the command again")
