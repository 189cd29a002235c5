# SPDX-License-Identifier: MIT
"""What the journal's records mean: answers, each of one part or several (choices, prompts), and how they become records
and come back. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from coordinator import errors
from coordinator.admission import AdmittedRequest
from coordinator.errors import CaravanError
from coordinator.generation import FinishReason, Token, TopLogprob, Usage
from coordinator.journal.records import Record
from native import SamplingParams

_KINDS: dict[str, type[CaravanError]] = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CaravanError)
}


@dataclass(frozen=True, slots=True)
class End:
    """How a part ended; one of reason and error is None.

    Attributes:
        at: Seconds since 1970.
    """

    at: float
    usage: Usage
    reason: FinishReason | None = None
    error: CaravanError | None = None


@dataclass(slots=True)
class StoredPart:
    """One generation of an answer, as far as the journal knows it.

    Attributes:
        deadline: Seconds since 1970 when its time is over; None: it may take any time.
        end: None: it was under way.
    """

    request: AdmittedRequest
    deadline: float | None
    tokens: list[Token] = field(default_factory=list)
    end: End | None = None


@dataclass(slots=True)
class StoredAnswer:
    """An answer of a coordinator that is gone.

    Attributes:
        at: Of its last record, in seconds since 1970.
        n_gone_on: How many coordinators have gone on with it.
        about: What whoever keeps the journal wants to know of it again: plain values.
    """

    id: str
    at: float
    about: Mapping[str, Any]
    parts: list[StoredPart]
    n_gone_on: int = 0


@dataclass(slots=True)
class Stored:
    """All that a journal has.

    Attributes:
        identity: Of the model; empty: it does not say.
        salt: For hashes of keys.
    """

    identity: str = ""
    salt: bytes = b""
    answers: dict[str, StoredAnswer] = field(default_factory=dict)


def model_record(identity: str, salt: bytes) -> Record:
    """The first one."""
    return {"is": "model", "identity": identity, "salt": salt}


def begin_record(answer: StoredAnswer) -> Record:
    """An answer without its tokens."""
    parts = [_part(part) for part in answer.parts]
    return {"is": "begin", "id": answer.id, "at": answer.at, "about": dict(answer.about), "parts": parts,
            "n_gone_on": answer.n_gone_on}  # fmt: skip


def tokens_record(at: float, runs: Sequence[tuple[str, int, int, Sequence[Token]]]) -> Record:
    """Tokens that came: for each of some parts its answer's id, its number, and the place of the first of them."""
    return {
        "is": "tokens",
        "at": at,
        "of": [[answer, part, start, [_row(token) for token in tokens]] for answer, part, start, tokens in runs],
    }


def end_record(answer: str, part: int, end: End) -> Record:
    """A part has ended."""
    error = None if end.error is None else [type(end.error).__name__, end.error.message]
    reason = None if end.reason is None else end.reason.value
    return {"is": "end", "id": answer, "part": part, "at": end.at, "reason": reason, "error": error,
            "usage": asdict(end.usage)}  # fmt: skip


def gone_record(answer: str) -> Record:
    """Nobody wants the answer any more."""
    return {"is": "gone", "id": answer}


def stored(records: Iterable[Record]) -> Stored:
    """What records say together.

    Raises:
        KeyError, TypeError, ValueError: One of them is not as it was written here.
    """
    all_of_it = Stored()
    for record in records:
        kind = record["is"]
        if kind == "model":
            all_of_it.identity, all_of_it.salt = record["identity"], record["salt"]
        elif kind == "begin":
            parts = [_part_of(part) for part in record["parts"]]
            answer = StoredAnswer(record["id"], record["at"], record["about"], parts, record["n_gone_on"])
            all_of_it.answers[answer.id] = answer
        elif kind == "gone":
            all_of_it.answers.pop(record["id"], None)
        elif kind == "end":
            _note_end(all_of_it, record)
        else:
            _note_tokens(all_of_it, record)
    return all_of_it


def _note_tokens(all_of_it: Stored, record: Record) -> None:
    for answer_id, number, start, rows in record["of"]:
        answer = all_of_it.answers.get(answer_id)
        if answer is not None:
            answer.at = max(answer.at, record["at"])
            tokens = answer.parts[number].tokens
            if start == len(tokens):
                tokens += map(_token_of, rows)


def _note_end(all_of_it: Stored, record: Record) -> None:
    answer = all_of_it.answers.get(record["id"])
    if answer is None:
        return
    answer.at = max(answer.at, record["at"])
    error: CaravanError | None = None
    if record["error"] is not None:
        name, message = record["error"]
        kind = _KINDS.get(name, CaravanError)
        error = kind.__new__(kind, message)  # its own arguments are in the message
    reason = None if record["reason"] is None else FinishReason(record["reason"])
    answer.parts[record["part"]].end = End(record["at"], Usage(**record["usage"]), reason, error)


def _part(part: StoredPart) -> dict[str, Any]:
    request = part.request
    return {
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        "stop": request.stop,
        "sampling": asdict(request.sampling),
        "cache_prompt": request.cache_prompt,
        "client": request.client,
        "priority": request.priority,
        "timeout": request.timeout_s,
        "n_keep": request.n_keep,
        "deadline": part.deadline,
    }


def _part_of(part: Mapping[str, Any]) -> StoredPart:
    sampling = dict(part["sampling"])
    sampling["logit_bias"] = tuple((token, bias) for token, bias in sampling["logit_bias"])
    sampling["visible_tokens"] = tuple(sampling.get("visible_tokens", ()))
    request = AdmittedRequest(
        tuple(part["prompt"]),
        part["max_tokens"],
        tuple(part["stop"]),
        SamplingParams(**sampling),
        cache_prompt=part["cache_prompt"],
        client=part["client"],
        priority=part["priority"],
        timeout_s=part["timeout"],
        n_keep=part["n_keep"],
    )
    return StoredPart(request, part["deadline"])


def _row(token: Token) -> list[Any]:
    """Short where there is nothing to say: no text of its own where that is the piece's."""
    text = None if token.text.encode() == token.piece else token.text
    row: list[Any] = [token.id, token.piece, text]
    if token.logprob is not None:
        row += [token.logprob, [[top.id, top.logprob, top.piece] for top in token.top_logprobs]]
    return row


def _token_of(row: Sequence[Any]) -> Token:
    token, piece, text, *rest = row
    if text is None:
        text = piece.decode()
    if not rest:
        return Token(token, text, piece)
    logprob, top = rest
    return Token(token, text, piece, logprob, tuple(TopLogprob(*each) for each in top))
