# SPDX-License-Identifier: MIT
"""Which tensor comes from where next: what is checked here, what is asked of whom, and what follows when it fails.

Pure: it is told what happened and says what to do. One load's fetch (worker/weights/fetch.py) asks it under its lock.

    a copy here, to be checked ──► HERE
            │ wrong                  ▲
            ▼                        │ hash right
    to be fetched, in pieces ────► COMPLETE
            ▲                        │ hash wrong: who gave it is asked no more
            └────────────────────────┘

A tensor comes from peers that hold it; what none of them can give, from the model's own server, else from the
coordinator. What all came from that server is right without a hash, as the coordinator would have it from there, too;
so where nobody knows the hash, it is not asked of peers. A connection stays with its tensor, whose bytes then come in
order, and helps others with theirs when no other is left to begin.
"""

import bisect
from collections import deque
from collections.abc import Sequence
from enum import Enum

from worker.weights.sources import COORDINATOR, INTERNET, Origin, Source
from worker.weights.steps import Ask, AskAddress, AskHash, AskPiece, Check, Open, Wanted

# A coordinator's file may change while it is read, once.
_MAX_WRONG_OF_COORDINATOR = 2
# Who gave what lies here of a tensor from a fetch that broke off.
_EARLIER = Source(Origin.STORE)
# So many that small tensors need not wait for each other's, so few that the coordinator reads what it is about to send.
_HASHES_AHEAD = 16
# Over the internet a request takes long, and nobody else waits for the connection.
_INTERNET_PIECES = 4


class _Phase(Enum):
    UNCHECKED = "a copy is here, to be checked"
    CHECKING = "a copy is being checked"
    UNOPENED = "to be fetched"
    OPENING = "about to be fetched"
    AWAITED = "another process fetches it"
    FETCHING = "being fetched"
    COMPLETE = "all bytes are here"
    FINISHING = "all bytes are here, and being checked"
    HERE = "here, and right"


class _Tensor:
    """What is known of one tensor."""

    def __init__(self, wanted: Wanted, order: int) -> None:
        self.number = wanted.tensor
        self.n_bytes = wanted.n_bytes
        self.part = wanted.part
        self.order = order
        self.copies = deque(wanted.copies)
        self.peers = tuple(Source(Origin.PEER, name) for name in wanted.peers)
        self.phase = _Phase.UNCHECKED if wanted.copies else _Phase.UNOPENED
        self.is_demanded = False
        self.is_hash_known = wanted.is_hash_known
        self.is_hash_asked = False
        # Ranges [start, end) that nobody was asked for.
        self.missing: list[tuple[int, int]] = []
        self.n_asked = 0
        # Who may be asked now, who gave some of it, and why others are not asked.
        self.givers: tuple[Source, ...] = ()
        self.given_by: set[Source] = set()
        self.is_earlier_sure = False
        self.refusals: dict[Source, str] = {}
        self.n_wrong = 0
        self.is_from_one = False

    @property
    def is_to_be_asked(self) -> bool:
        """Whether a connection could ask for some of it."""
        return self.phase is _Phase.UNOPENED or (self.phase is _Phase.FETCHING and bool(self.missing))

    @property
    def is_sure(self) -> bool:
        """Whether what is here of it is right without a hash: all of it came from the model's own server."""
        return self.given_by <= ({INTERNET, _EARLIER} if self.is_earlier_sure else {INTERNET})

    def take(self, n_bytes: int) -> AskPiece:
        """The next piece, of so many bytes at most."""
        start, end = self.missing.pop(0)
        if end - start > n_bytes:
            self.missing.insert(0, (start + n_bytes, end))
        self.n_asked += 1
        return AskPiece(self.number, start, min(n_bytes, end - start))

    def put_back(self, piece: AskPiece) -> None:
        """It was asked for and did not come."""
        self.n_asked -= 1
        bisect.insort(self.missing, (piece.offset, piece.offset + piece.n_bytes))


class _Connection:
    """Whom it leads to, the tensor that it is at, and what was asked of it and has not come, in order."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.tensor: _Tensor | None = None
        self.asked: deque[Ask] = deque()


class Schedule:
    """One load's tensors, in the order in which they were first wanted."""

    def __init__(self, *, coordinator_gives: bool, piece_bytes: int, has_internet: bool = False) -> None:
        self._tensors: dict[int, _Tensor] = {}
        # Those that are not here yet.
        self._open: list[_Tensor] = []
        self._n_wanted = 0
        self._piece_bytes = piece_bytes
        self._connections: dict[int, _Connection] = {}
        self._dropped: dict[Source, str] = {}
        if not coordinator_gives:
            self._dropped[COORDINATOR] = "the coordinator gives no weights"
        # Parts whose address the server refuses, with why; whose new one is asked for; whose new one nothing came from.
        self._has_internet = has_internet
        self._expired: dict[int, str] = {}
        self._renewing: set[int] = set()
        self._renewed: set[int] = set()

    def __contains__(self, tensor: int) -> bool:
        """Whether it was ever wanted."""
        return tensor in self._tensors

    def is_complete(self, tensor: int) -> bool:
        """Whether it is all here, and waits for its hash."""
        return self._tensors[tensor].phase is _Phase.COMPLETE

    def want(self, wanted: Wanted) -> None:
        """One more, behind all others; one that is here comes again."""
        before = self._tensors.get(wanted.tensor)
        assert before is None or before.phase is _Phase.HERE, "what is under way is not wanted twice"
        tensor = self._tensors[wanted.tensor] = _Tensor(wanted, self._n_wanted)
        self._n_wanted += 1
        self._open.append(tensor)
        self._choose_givers(tensor)

    def demand(self, tensor: int) -> None:
        """Somebody waits for that one: it comes before all others that nobody is at."""
        self._tensors[tensor].is_demanded = True

    def needs_coordinator(self) -> bool:
        """Whether something only it can give is needed as things stand."""
        is_needed = bool(self._expired) or any(map(self._waits_for_coordinator, self._open))
        return COORDINATOR not in self._dropped and is_needed

    def goes_without_hash(self, tensor: int) -> bool:
        """Whether its own server gives it, and nobody needs to tell its hash."""
        state = self._tensors[tensor]
        return not state.is_hash_known and INTERNET in state.givers

    def lost(self) -> tuple[int, list[str]] | None:
        """A tensor that nobody can give (any more), with the reasons."""
        for tensor in self._open:
            no_hash = self._needs_hash(tensor) and self._refusal(tensor, COORDINATOR) is not None
            if no_hash or (tensor.is_to_be_asked and not tensor.givers):
                asked = tensor.peers if tensor.is_hash_known else ()
                reasons = [self._refusal(tensor, source) for source in (*asked, INTERNET, COORDINATOR)]
                return tensor.number, list(dict.fromkeys(reason for reason in reasons if reason is not None))
        return None

    def next_check(self) -> Check | None:
        """The next copy to check."""
        ready = (t for t in self._open if t.phase is _Phase.UNCHECKED and t.is_hash_known)
        tensor = min(ready, key=lambda t: (not t.is_demanded, t.order), default=None)
        if tensor is None:
            return None
        tensor.phase = _Phase.CHECKING
        return Check(tensor.number, tensor.copies[0])

    def wrong_copy(self, tensor: int) -> bool:
        """The copy that `next_check` gave is wrong; whether another one is to be checked. `right` if it is right."""
        state = self._tensors[tensor]
        state.copies.popleft()
        state.phase = _Phase.UNCHECKED if state.copies else _Phase.UNOPENED
        return bool(state.copies)

    def connect(self, connection: int, source: Source) -> None:
        """There is a connection to ask."""
        self._connections[connection] = _Connection(source)

    def is_connected(self, connection: int) -> bool:
        """Whether it may still be asked."""
        return connection in self._connections

    def source_of(self, connection: int) -> Source:
        """Whom it leads to."""
        return self._connections[connection].source

    def why_dropped(self, source: Source) -> str | None:
        """Why nothing more is asked of that one, if so."""
        return self._dropped.get(source)

    def asked_of(self, connection: int) -> Ask:
        """The oldest thing that was asked of it and has not come."""
        return self._connections[connection].asked[0]

    def next(self, connection: int) -> Open | Ask | None:
        """What to do for that connection; None: nothing now."""
        state = self._connections[connection]
        if state.source == COORDINATOR:
            if (renewal := self._next_to_renew()) is not None:
                state.asked.append(renewal)
                return renewal
            colleagues = sorted(n for n, each in self._connections.items() if each.source == COORDINATOR)
            # Hashes take the coordinator a while, so one connection is for them alone where there are several.
            is_for_hashes = connection == colleagues[0]
            if is_for_hashes and (tensor := self._next_to_hash()) is not None:
                tensor.is_hash_asked = True
                asked = AskHash(tensor.number, tensor.n_bytes)
                state.asked.append(asked)
                return asked
            if is_for_hashes and len(colleagues) > 1 and any(map(self._needs_hash, self._open)):
                return None
        state.tensor = tensor = self._choose(state)
        if tensor is None:
            return None
        if tensor.phase is _Phase.UNOPENED:
            tensor.phase = _Phase.OPENING
            return Open(tensor.number)
        piece = tensor.take(self._piece_bytes * (_INTERNET_PIECES if state.source == INTERNET else 1))
        state.asked.append(piece)
        return piece

    def opened(self, tensor: int, missing: Sequence[tuple[int, int]], *, is_sure: bool = False) -> bool:
        """It can be written, and these ranges are missing; whether it is complete, to be finished by the caller.

        `is_sure`: what is not missing came from the model's own server."""
        state = self._tensors[tensor]
        state.is_earlier_sure = is_sure
        state.phase = _Phase.FETCHING
        state.missing = list(missing)
        if _n_missing(state) < state.n_bytes:
            state.given_by.add(_EARLIER)
        return self._is_ready(state)

    def await_other(self, tensor: int) -> None:
        """It cannot be opened now: another process writes it."""
        self._tensors[tensor].phase = _Phase.AWAITED

    def awaited(self) -> list[int]:
        """Those that another process wrote when they were last tried: to be tried again."""
        return [tensor.number for tensor in self._open if tensor.phase is _Phase.AWAITED]

    def came(self, connection: int, n_bytes: int) -> bool:
        """So many more bytes of the oldest piece that was asked of it; whether its tensor is to be finished."""
        state = self._connections[connection]
        piece = state.asked[0]
        assert isinstance(piece, AskPiece), "a piece that comes was asked for"
        tensor = self._tensors[piece.tensor]
        tensor.given_by.add(state.source)
        if state.source == INTERNET:
            self._renewed.discard(tensor.part)
        if n_bytes < piece.n_bytes:
            state.asked[0] = AskPiece(piece.tensor, piece.offset + n_bytes, piece.n_bytes - n_bytes)
            return False
        state.asked.popleft()
        tensor.n_asked -= 1
        return self._is_ready(tensor)

    def hash_came(self, connection: int) -> bool:
        """The hash that was asked of it; whether its tensor is to be finished."""
        asked = self._connections[connection].asked.popleft()
        tensor = self._tensors[asked.tensor]
        tensor.is_hash_known = True
        self._choose_givers(tensor)
        return self._is_ready(tensor)

    def expired(self, connection: int, reason: str, *, is_old: bool) -> None:
        """Its server refuses the address of what was asked of it; `is_old`: another one has come meanwhile."""
        asked = self._connections[connection].asked.popleft()
        self._put_back(asked)
        part = self._tensors[asked.tensor].part
        if is_old or part in self._expired or INTERNET in self._dropped:
            return
        if part in self._renewed or COORDINATOR in self._dropped:
            self.drop(INTERNET, reason)
        else:
            self._expired[part] = reason

    def address_came(self, connection: int) -> None:
        """The address that was asked of it."""
        part = self._tensors[self._connections[connection].asked.popleft().tensor].part
        self._renewing.discard(part)
        self._expired.pop(part, None)
        self._renewed.add(part)

    def refused(self, connection: int, reason: str) -> None:
        """It says that it cannot give the oldest thing that was asked of it."""
        state = self._connections[connection]
        asked = state.asked.popleft()
        self._put_back(asked)
        if isinstance(asked, AskAddress):
            self.drop(INTERNET, reason)
        else:
            self._refuse(self._tensors[asked.tensor], state.source, reason)

    def gone(self, connection: int) -> None:
        """It ended; what was asked of it and did not come is asked of others."""
        state = self._connections.pop(connection, None)
        for asked in () if state is None else state.asked:
            self._put_back(asked)

    def drop(self, source: Source, reason: str) -> None:
        """Nothing more is asked of that one."""
        self._dropped.setdefault(source, reason)
        if source == COORDINATOR and self._expired:
            # Nobody tells where it is by now.
            self._dropped.setdefault(INTERNET, next(iter(self._expired.values())))
        if INTERNET in self._dropped:
            self._expired.clear()
        for tensor in self._open:
            self._choose_givers(tensor)

    def right(self, tensor: int) -> None:
        """It is here and has its hash."""
        state = self._tensors[tensor]
        if state.phase is not _Phase.HERE:
            state.phase = _Phase.HERE
            self._open.remove(state)

    def wrong(self, tensor: int) -> None:
        """It has another hash: all of it is asked for again, not of who gave it; where several did, of one alone."""
        state = self._tensors[tensor]
        state.phase = _Phase.FETCHING
        state.missing = [(0, state.n_bytes)]
        givers, state.given_by = state.given_by, set()
        if len(givers) > 1:
            # Any of them may be to blame.
            state.is_from_one = True
            self._choose_givers(state)
            return
        for giver in givers - {_EARLIER}:
            state.n_wrong += giver == COORDINATOR
            if giver != COORDINATOR:
                self._refuse(state, giver, f"{giver} gave wrong bytes")
            elif state.n_wrong == _MAX_WRONG_OF_COORDINATOR:
                self._refuse(state, giver, "the coordinator gave wrong bytes, twice")

    def _choose(self, connection: _Connection) -> _Tensor | None:
        """The tensor to ask for: its own, else one that nobody is at, else the one with the most to do."""
        source, own = connection.source, connection.tensor
        is_expired = source == INTERNET and own is not None and own.part in self._expired
        if own is not None and own.phase is _Phase.FETCHING and own.missing and source in own.givers and not is_expired:
            return own
        possible = [
            tensor
            for tensor in self._open
            if tensor.is_to_be_asked
            and source in tensor.givers
            and not (source == INTERNET and tensor.part in self._expired)
        ]
        busy = {each.tensor for each in self._connections.values()}
        fresh = (tensor for tensor in possible if tensor not in busy)
        # What few others have first, so that all have something to give to the end.
        chosen = min(fresh, key=lambda t: (not t.is_demanded, len(t.givers), t.order), default=None)
        return chosen or min(possible, key=lambda t: (not t.is_demanded, -_n_missing(t), t.order), default=None)

    def _next_to_hash(self) -> _Tensor | None:
        if sum(isinstance(a, AskHash) for each in self._connections.values() for a in each.asked) >= _HASHES_AHEAD:
            return None
        unknown = (t for t in self._open if self._needs_hash(t) and not t.is_hash_asked and _is_hash_due(t))
        return min(unknown, key=lambda t: (not t.is_demanded, t.order), default=None)

    def _next_to_renew(self) -> AskAddress | None:
        """The address to ask for, by a tensor of its part."""
        due = (t for t in self._tensors.values() if t.part in self._expired and t.part not in self._renewing)
        tensor = next(due, None) if self._expired else None
        if tensor is None:
            return None
        self._renewing.add(tensor.part)
        return AskAddress(tensor.number)

    def _put_back(self, asked: Ask) -> None:
        tensor = self._tensors[asked.tensor]
        if isinstance(asked, AskAddress):
            self._renewing.discard(tensor.part)
        elif isinstance(asked, AskHash):
            tensor.is_hash_asked = False
        else:
            tensor.put_back(asked)

    def _refuse(self, tensor: _Tensor, source: Source, reason: str) -> None:
        tensor.refusals.setdefault(source, reason)
        self._choose_givers(tensor)

    def _refusal(self, tensor: _Tensor, source: Source) -> str | None:
        """Why it is not asked for that tensor; None: it may be, or there is no such source."""
        return tensor.refusals.get(source) or self._dropped.get(source)

    def _choose_givers(self, tensor: _Tensor) -> None:
        peers = tuple(source for source in tensor.peers if self._refusal(tensor, source) is None)
        internet = (INTERNET,) if self._has_internet and self._refusal(tensor, INTERNET) is None else ()
        coordinator = (COORDINATOR,) if self._refusal(tensor, COORDINATOR) is None else ()
        # Who is to compare what peers give would have to fetch it for that, where nobody has its hash.
        is_own = bool(internet) and not tensor.is_hash_known and tensor.is_sure
        tensor.givers = internet if is_own else peers or internet or coordinator
        if tensor.is_from_one:
            tensor.givers = tensor.givers[:1]
        if tensor.phase is _Phase.UNCHECKED and not tensor.is_hash_known and not coordinator:
            # Without a hash a file is worth nothing.
            tensor.copies.clear()
            tensor.phase = _Phase.UNOPENED

    def _waits_for_coordinator(self, tensor: _Tensor) -> bool:
        return self._needs_hash(tensor) or (tensor.is_to_be_asked and tensor.givers == (COORDINATOR,))

    def _needs_hash(self, tensor: _Tensor) -> bool:
        """Whether somebody has to tell its hash, as things stand."""
        if tensor.is_hash_known:
            return False
        is_given_rest = INTERNET in tensor.givers or not tensor.is_to_be_asked
        is_begun = tensor.phase not in (_Phase.UNCHECKED, _Phase.CHECKING)
        return not (self._has_internet and is_begun and tensor.is_sure and is_given_rest)

    def _is_ready(self, tensor: _Tensor) -> bool:
        """Notes when a tensor is complete; whether it can be compared with its hash, which is told once."""
        if tensor.phase is _Phase.FETCHING and not tensor.missing and tensor.n_asked == 0:
            tensor.phase = _Phase.COMPLETE
        if tensor.phase is not _Phase.COMPLETE or self._needs_hash(tensor):
            return False
        tensor.phase = _Phase.FINISHING
        return True


def _is_hash_due(tensor: _Tensor) -> bool:
    """Whether to ask for its hash: before a file is checked; while peers give the tensor; when the coordinator gave it,
    since one that has it from a server itself hashes what passes by, and would fetch it twice otherwise.
    """
    if tensor.phase in (_Phase.OPENING, _Phase.FETCHING):
        return tensor.givers != (COORDINATOR,)
    return tensor.phase in (_Phase.UNCHECKED, _Phase.COMPLETE)


def _n_missing(tensor: _Tensor) -> int:
    return sum(end - start for start, end in tensor.missing)
