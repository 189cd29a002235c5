# SPDX-License-Identifier: MIT
"""llama-server's own form of completions. Used like the other forms, of `forms`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel

from coordinator.generation import PromptProgress
from coordinator.http.llama_answer import Asked, completion_of, probabilities_of
from coordinator.http.measures import progress_of
from coordinator.http.pieces import Finished, Piece
from coordinator.http.schemas import answer
from coordinator.http.schemas.llama_completion import LlamaCompletion, LlamaCompletions, LlamaFields, LlamaPart


@dataclass(frozen=True, slots=True)
class LlamaForm:
    """`/completion`.

    Attributes:
        asked: Of each answer.
        fields: What is told of whole answers, by paths as "timings/prompt_n"; empty: all.
    """

    model: str
    asked: Sequence[Asked]
    with_probabilities: bool = False
    with_tokens: bool = False
    fields: Sequence[str] = ()
    is_timed: bool = False
    says_done: ClassVar[bool] = False
    _n_told: dict[int, int] = field(default_factory=dict)

    def opening(self, index: int) -> None:
        del index

    def progress(self, index: int, progress: PromptProgress) -> BaseModel:
        part = self._part(index, "", [])
        part.prompt_progress = progress_of(progress)
        return _told(part)

    def chunks(self, piece: Piece) -> list[BaseModel]:
        self._n_told[piece.index] = self._n_told.get(piece.index, 0) + len(piece.tokens)
        part = self._part(piece.index, piece.text, [token.id for token in piece.tokens])
        part.timings = piece.timings
        if self.with_probabilities:
            part.completion_probabilities = probabilities_of(piece.tokens)
        return [_told(part)]

    def closing(self, finished: Finished) -> list[BaseModel]:
        return [self._picked(completion_of(finished, self.asked[finished.index], self.model, with_text=False))]

    def usage(self, usage: answer.Usage, timings: answer.Timings) -> None:
        """Each answer has told its counts."""
        del usage, timings

    def whole(self, answers: Sequence[Finished], usage: answer.Usage) -> BaseModel:
        del usage
        whole = [self._picked(self._whole(finished)) for finished in answers]
        return whole[0] if len(whole) == 1 else LlamaCompletions([each.root for each in whole])

    def _part(self, index: int, text: str, tokens: list[int]) -> LlamaPart:
        n_told, n_prompt = self._n_told.get(index, 0), self.asked[index].n_prompt
        return LlamaPart(index=index, content=text, tokens=tokens, tokens_predicted=n_told, tokens_evaluated=n_prompt)

    def _whole(self, finished: Finished) -> LlamaCompletion:
        whole = completion_of(finished, self.asked[finished.index], self.model)
        if not self.with_tokens:
            whole.tokens = []
        if self.with_probabilities:
            whole.completion_probabilities = probabilities_of(finished.tokens)
        return whole

    def _picked(self, completion: LlamaCompletion) -> LlamaFields:
        told = completion.model_dump(exclude_none=True)
        if not self.fields:
            return LlamaFields(told)
        found = {path: _at(told, path) for path in self.fields}
        return LlamaFields({path: values[0] for path, values in found.items() if values})


def _told(part: LlamaPart) -> LlamaFields:
    return LlamaFields(part.model_dump(exclude_none=True))


def _at(told: Mapping[str, Any], path: str) -> tuple[Any, ...]:
    """What is at the path; empty if there is no such place."""
    found: Any = told
    for name in path.split("/"):
        if not isinstance(found, dict) or name not in found:
            return ()
        found = found[name]
    return (found,)
