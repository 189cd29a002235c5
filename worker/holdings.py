# SPDX-License-Identifier: MIT
"""What a worker holds for coordinators: the stage of a line and, beside it, a model that drafts for a line. Each has a
session of its own, and neither makes the other go.
"""

from dataclasses import dataclass

from worker.holder import Holder
from worker.session import StageSpec
from worker.streams import Streams


@dataclass(frozen=True, slots=True)
class Holdings:
    """On one device, whose memory they share."""

    line: Holder
    draft: Holder

    def of(self, spec: StageSpec) -> Holder:
        """Where such a stage belongs."""
        return self.draft if spec.is_draft else self.line

    def streams(self, session_id: str) -> Streams:
        """Of that session; the line's, where nobody has it."""
        return (self.draft if self.draft.has(session_id) else self.line).streams

    def unload(self, session_id: str, *, may_keep: bool) -> bool:
        """As a holder's own."""
        holder = self.draft if self.draft.has(session_id) else self.line
        return holder.unload(session_id, may_keep=may_keep)

    def drain(self, timeout_s: float) -> None:
        """As their streams' own."""
        for holder in (self.draft, self.line):
            holder.streams.drain(timeout_s)

    def close(self) -> None:
        """Drops everything; the servicers must be gone."""
        self.draft.close()
        self.line.close()
