# SPDX-License-Identifier: MIT
"""Every error the coordinator raises, as one tree. Raised by all modules of this room; callers of the Python API, the
HTTP API and the CLI catch them by the branch they can act on.

    CaravanError
    ├── NoWorkersError                 nobody to give layers to
    ├── VersionMismatchError           a worker runs another llama.cpp build or contract
    ├── IdentityError                  no membership, or another one, than is needed to talk to a worker
    ├── DuplicateNameError             two workers go by one name
    ├── ModelError                     the model cannot be used at all
    │   ├── ModelNotFoundError         no such file
    │   ├── SourceError                where it is to come from cannot be reached, read or trusted
    │   └── UnsupportedModelError      an architecture that llama.cpp or a line cannot run
    ├── PlanError                      no way to lay the model over the workers
    │   ├── DoesNotFitError            too little memory, with the numbers
    │   └── InventoryError             a file of machines to plan for says what cannot be
    ├── WorkerError                    one worker failed; it says which, and whether trying again is safe
    │   ├── WorkerStartError           a worker process of this machine did not come up
    │   ├── WorkerLostError            it does not answer any more
    │   │   └── WorkerSilentError      nobody says that it is gone; it froze, or its network is down
    │   ├── WorkerBusyError            another session is loading there
    │   ├── SessionLostError           it holds this session no more: restarted, or taken by another coordinator
    │   ├── WeightsError               its layers' weights did not get there: nobody gives them, or no room on its disk
    │   └── EngineError                llama.cpp failed there
    │       ├── FrameRefusedError      a frame could not be carried out there: a fault of ours
    │       └── PoisonError            lines broke again and again while they computed this request
    ├── RequestError                   one request cannot be served; others are not touched
    │   ├── InvalidRequestError        its parameters make no sense
    │   │   └── SchemaError            its JSON schema is none, or cannot be kept by a grammar
    │   ├── PromptTooLongError         the prompt leaves no room in the context
    │   ├── InputTooLongError          an input is longer than the mesh can embed
    │   ├── NotMadeForError            the mesh does not do this at all: it writes no text, or embeds none
    │   ├── OverloadedError            slots and queue are full
    │   ├── ClientLimitError           its client has as many requests under way as it may
    │   ├── DeadlineError              it was not finished in the time that it had
    │   └── SlowReaderError            nobody took its tokens, while others waited
    ├── CancelledError                 somebody called it off
    ├── UnloadedError                  the model was unloaded meanwhile, of several that a server has
    └── ClosedError                    the mesh was closed

The message of each is one sentence (or a few) with what to do about it; it is what a person gets to read.
"""

from __future__ import annotations

from native import LayerRange


class CaravanError(Exception):
    """Root of everything this package raises on purpose.

    Attributes:
        retry_safe: Whether trying again, unchanged, can succeed.
    """

    retry_safe: bool = False

    @property
    def message(self) -> str:
        """The sentence a person reads."""
        return str(self)


class NoWorkersError(CaravanError):
    """No worker was found that could take part."""

    retry_safe = True


class VersionMismatchError(CaravanError):
    """A worker that was asked for by address runs another llama.cpp build or speaks another contract."""


class IdentityError(CaravanError):
    """This machine's cluster cannot be used, or a worker cannot be talked to without one."""


class DuplicateNameError(CaravanError):
    """Two workers with the same name.

    Attributes:
        name: Their name.
        addresses: Where they are, ``host:port``.
    """

    def __init__(self, name: str, addresses: tuple[str, ...]) -> None:
        self.name = name
        self.addresses = addresses
        super().__init__(
            f"two workers are called {name!r}, at {' and '.join(addresses)}: restart one of them with another --name"
        )


class ModelError(CaravanError):
    """The model cannot be used: not a GGUF, damaged, not the same file on a worker."""


class ModelNotFoundError(ModelError):
    """There is no such file, here or on a worker."""


class SourceError(ModelError):
    """Where the model is to come from (a file, a server, a hub) cannot be reached, may not be read, or changed.

    Attributes:
        retry_safe: Whether it may be otherwise the next time: no network, a server that is overloaded.
    """

    def __init__(self, message: str, *, retry_safe: bool = False) -> None:
        self.retry_safe = retry_safe
        super().__init__(message)


class UnsupportedModelError(ModelError):
    """An architecture that llama.cpp does not know or that a line of workers cannot split."""


class PlanError(CaravanError):
    """The model cannot be laid over the workers as asked."""


class DoesNotFitError(PlanError):
    """The workers' memory does not suffice.

    Attributes:
        needed_bytes: What the model takes with this context, all stages together (or the one named in the message).
        available_bytes: What there is for it.
    """

    def __init__(self, message: str, *, needed_bytes: int, available_bytes: int) -> None:
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes
        super().__init__(message)


class InventoryError(PlanError):
    """A file of machines to plan for cannot be read, or says what cannot be; names the file and the entry."""


class WorkerError(CaravanError):
    """Something failed on one worker.

    Attributes:
        worker: Its name, or its address where the name is not known.
        layers: The layer range it holds in the session, if any.
        retry_safe: Whether trying again, unchanged, can succeed.
        seq_id: The sequence concerned, if it was one.
    """

    def __init__(
        self,
        message: str,
        *,
        worker: str,
        layers: LayerRange | None = None,
        retry_safe: bool = False,
        seq_id: int | None = None,
    ) -> None:
        self.worker = worker
        self.layers = layers
        self.retry_safe = retry_safe
        self.seq_id = seq_id
        super().__init__(message)


class WorkerStartError(WorkerError):
    """A worker process that the coordinator started on this machine did not become ready."""


class WorkerLostError(WorkerError):
    """A worker stopped answering: power, network, a crash."""


class WorkerSilentError(WorkerLostError):
    """A worker answers nothing while its connections stand: it froze, or vanished from the network."""


class WorkerBusyError(WorkerError):
    """A worker is loading for another session, or serves another coordinator."""


class SessionLostError(WorkerError):
    """A worker does not hold this session any more: it was restarted, or another coordinator loaded a model there."""


class WeightsError(WorkerError):
    """The weights of a worker's layers did not get there: nobody gives them as they should be, its disk is full, or it
    cannot be reached where it takes them."""


class EngineError(WorkerError):
    """llama.cpp failed on a worker."""


class FrameRefusedError(EngineError):
    """A worker could not carry out a frame as it came. The session is over: the next one would be no better."""


class PoisonError(EngineError):
    """The line broke several times while it computed this request, which had no token in between.

    Attributes:
        n_breaks: How often.
    """

    def __init__(self, n_breaks: int, reason: CaravanError) -> None:
        self.n_breaks = n_breaks
        worker, layers = (reason.worker, reason.layers) if isinstance(reason, WorkerError) else ("", None)
        super().__init__(
            f"the request was given up, because the line broke {n_breaks} times while it was computed and no token of "
            f"it came in between; at last: {reason}",
            worker=worker,
            layers=layers,
        )


class RequestError(CaravanError):
    """One request cannot be served as asked."""


class InvalidRequestError(RequestError):
    """Parameters out of range, a grammar that does not parse, an empty prompt, messages the template refuses."""


class SchemaError(InvalidRequestError):
    """A JSON schema that is none, that nothing can satisfy, or that asks for what no grammar can keep.

    Attributes:
        problem: What is wrong there, as a sentence.
        place: Of what is wrong in the schema, as a JSON pointer: `#/properties/name`.
    """

    def __init__(self, problem: str, place: str) -> None:
        self.problem = problem
        self.place = place
        super().__init__(f"the JSON schema cannot be kept, at {place[:200]}: {problem}")


class PromptTooLongError(RequestError):
    """The prompt leaves no room for a single token in a sequence's context.

    Attributes:
        n_prompt: Tokens of the prompt.
        n_ctx: Tokens of the context of one sequence.
    """

    def __init__(self, n_prompt: int, n_ctx: int) -> None:
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx
        super().__init__(
            f"the prompt has {n_prompt} tokens and the context of a sequence {n_ctx}, of which one must be left "
            f"for the answer: shorten the prompt or open the model with a larger context"
        )


class InputTooLongError(RequestError):
    """An input to be embedded is too long.

    Attributes:
        index: Its place among the inputs.
        n_input: Its tokens.
        n_most: Tokens that one may have.
    """

    def __init__(self, index: int, n_input: int, n_most: int, remedy: str) -> None:
        self.index = index
        self.n_input = n_input
        self.n_most = n_most
        super().__init__(
            f"input {index} has {n_input} tokens and at most {n_most} can be embedded here: shorten it, or {remedy}"
        )


class NotMadeForError(RequestError):
    """The mesh was not opened for this, or its model cannot do it."""


class OverloadedError(RequestError):
    """All slots are taken and the queue is full.

    Attributes:
        n_waiting: Requests in the queue.
    """

    retry_safe = True

    def __init__(self, n_waiting: int) -> None:
        self.n_waiting = n_waiting
        super().__init__(f"too many requests: {n_waiting} are already waiting; try again later")


class ClientLimitError(RequestError):
    """Its client has as many requests under way as one may have.

    Attributes:
        n_requests: Those of this client that run or wait.
    """

    retry_safe = True

    def __init__(self, n_requests: int) -> None:
        self.n_requests = n_requests
        super().__init__(
            f"too many requests of one client: {n_requests} run or wait, and one may not have more; "
            "try again when one of them has ended"
        )


class DeadlineError(RequestError):
    """The request was still waiting or running when its time was over. Its slot is free.

    Attributes:
        timeout_s: The time it had, in seconds from its submission.
        n_tokens: Tokens that were generated by then.
    """

    retry_safe = True

    def __init__(self, timeout_s: float, n_tokens: int) -> None:
        self.timeout_s = timeout_s
        self.n_tokens = n_tokens
        reached = f"{n_tokens} tokens were generated" if n_tokens else "it had no token yet"
        super().__init__(
            f"the request was not finished within its {timeout_s:g} s ({reached}): allow it more time, or ask for "
            "fewer tokens"
        )


class SlowReaderError(RequestError):
    """The request's tokens were not taken, so it was paused; and at last its slot was given to others that waited.

    Attributes:
        paused_s: How long it had been paused, in seconds.
    """

    retry_safe = True

    def __init__(self, paused_s: float) -> None:
        self.paused_s = paused_s
        super().__init__(
            f"the request was ended because its tokens were not read for {paused_s:.0f} s while others waited: "
            "read the stream as it comes"
        )


class CancelledError(CaravanError):
    """What was under way was called off, by the caller or because the mesh closed."""

    retry_safe = True


class UnloadedError(CaravanError):
    """The model was unloaded while the request ran, or while it was loaded for it."""

    retry_safe = True


class ClosedError(CaravanError):
    """The mesh is closed; open a new one."""

    def __init__(self, message: str = "the mesh is closed; open a new one") -> None:
        super().__init__(message)
