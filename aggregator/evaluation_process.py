"""Central evaluation in a process of its own, so that the aggregator never loads torch.

The child is asked over its standard input and answers over what was its standard output: frames of one length and one
msgpack map, arrays as raw bytes. It is trusted: it runs the operator's own task. What the task prints goes to standard
error. It ends with its input, so it never outlives the aggregator.

Not here: evaluating (`evaluation.py`).
"""

import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from aggregator.evaluation import evaluate, initial
from shared.blocking import Lane, RunBlocking
from shared.errors import ConfigError
from shared.parameters import ParameterSpec, Role, Vector, constants_of
from shared.task import Arrays, Evaluated, Initial, Ratio, Task, load_task

__all__ = ["ProcessEvaluator", "main"]

_LENGTH = struct.Struct("<Q")
_PROGRAM = "from aggregator.evaluation_process import main; main()"
CLOSE_S = 5.0
"""Seconds the child has to end by itself."""


class ProcessEvaluator:
    """The parent's side: starts the child when first asked, and again when it has died.

    Args:
        task: "module:name".
        folder: where the module is looked for first.
        run_blocking: its lane TRAINING waits for the child.
    """

    def __init__(self, task: str, folder: Path, run_blocking: RunBlocking) -> None:
        self._task, self._folder, self._run_blocking = task, folder, run_blocking
        self._child: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._is_closed = False

    async def initial(self, seed: int) -> Initial:
        answer = await self._ask({"seed": seed})
        spec = ParameterSpec.from_wire(answer["spec"])
        buffers = frozenset(name for e in spec.entries if e.role is Role.BUFFER for name in e.names)
        arrays = spec.unflatten(np.frombuffer(answer["vector"], np.float32))
        return Initial({**arrays, **_unpacked(answer["constants"])}, buffers)

    async def evaluate(self, vector: Vector, spec: ParameterSpec, constants: Arrays) -> Evaluated | None:
        answer = await self._ask(
            {"spec": spec.to_wire(), "vector": vector.data, "constants": _packed(constants)},
        )
        if answer["metrics"] is None:
            return None
        metrics = {name: Ratio(*m) if isinstance(m, list) else m for name, m in answer["metrics"].items()}
        return Evaluated(num_examples=answer["num_examples"], metrics=metrics)

    async def close(self) -> None:
        with self._starting:
            self._is_closed = True
            child, self._child = self._child, None
        if child is not None:
            child.kill()  # whoever waits for an answer in the lane meets the end of the child's output
            await self._run_blocking(Lane.TRAINING, lambda: _end(child))

    async def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        answer = await self._run_blocking(Lane.TRAINING, lambda: self._exchange(question))
        if "error" in answer:
            what, where, hint = answer["error"]
            raise ConfigError(what, where=where, hint=hint)
        return answer

    def _exchange(self, question: Mapping[str, Any]) -> dict[str, Any]:
        child = self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            _send(child.stdin, question)
            answer = _receive(child.stdout)
        except (BrokenPipeError, ValueError):  # ValueError: closed meanwhile
            answer = None
        if answer is None:
            code = _end(child)
            self._child = None
            raise ConfigError(
                f"the process that evaluates ended with {code}",
                where=f"task {self._task}",
                hint="killed by signal 9 usually means out of memory" if code == -signal.SIGKILL else "",
            )
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        with self._starting:
            if self._is_closed:
                raise ConfigError("the evaluator is closed")
            if self._child is None:
                self._child = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, self._task, str(self._folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            return self._child


def main() -> None:
    """Be the child: `main()` in a process with the task and the folder as arguments."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    spec, folder = sys.argv[1:3]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    task: Task | None = None
    while (question := _receive(sys.stdin.buffer)) is not None:
        try:
            task = task or load_task(spec, Path(folder))
            answer = _answer(task, question)
        except ConfigError as error:
            answer = {"error": [error.what, error.where, error.hint]}
        _send(answers, answer)


def _answer(task: Task, question: Mapping[str, Any]) -> dict[str, Any]:
    if "seed" in question:
        model = initial(task, question["seed"])
        spec = ParameterSpec.of(model)
        vector = spec.flatten(model.parameters)
        return {"spec": spec.to_wire(), "vector": vector.data, "constants": _packed(constants_of(model))}
    spec = ParameterSpec.from_wire(question["spec"])
    vector = np.frombuffer(question["vector"], np.float32)
    found = evaluate(task, vector, spec, _unpacked(question["constants"]))
    if found is None:
        return {"metrics": None}
    return {"num_examples": found.num_examples, "metrics": dict(found.metrics)}


def _packed(arrays: Arrays) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def _unpacked(found: Mapping[str, tuple[str, list[int], bytes]]) -> dict[str, NDArray[Any]]:
    # a copy: what a task is given it may change
    return {name: np.frombuffer(data, dtype).reshape(shape).copy() for name, (dtype, shape, data) in found.items()}


def _send(stream: IO[bytes], message: Mapping[str, Any]) -> None:
    payload: bytes = msgpack.packb(message)
    stream.write(_LENGTH.pack(len(payload)))
    stream.write(payload)
    stream.flush()


def _receive(stream: IO[bytes]) -> dict[str, Any] | None:
    """Return a message, None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    if len(head) != _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    payload = stream.read(length)
    if len(payload) != length:
        return None
    found: dict[str, Any] = msgpack.unpackb(payload)
    return found


def _end(child: subprocess.Popen[bytes]) -> int:
    """Close both pipes, wait for the end, and return how it ended."""
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()
    try:
        return child.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()
