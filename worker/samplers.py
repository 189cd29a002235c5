# SPDX-License-Identifier: MIT
"""The samplers of a last stage, one per sequence that asked for one. Used by the engine, on its thread.

A sampler that cannot be made or cannot go on costs its own sequence an error in its next result; the others in
the batch are none the worse for it.
"""

from native import Context, GrammarError, Sampler, SamplingError, SamplingParams, Vocabulary
from protos.caravan.v1 import frame_pb2


class Samplers:
    """By sequence: a sampler, or the sentence that says why there is none."""

    def __init__(self, vocabulary: Vocabulary, n_ctx_seq: int) -> None:
        """`n_ctx_seq`: how many tokens "the whole context" is to the penalties."""
        self._vocabulary = vocabulary
        self._n_ctx_seq = n_ctx_seq
        self._by_sequence: dict[int, Sampler | str] = {}
        # What was sampled last; none where drafts are passed over.
        self._last_tokens: dict[int, int] = {}

    def apply(self, operation: frame_pb2.SamplerOperation) -> None:
        """Opens or closes one sampler."""
        if operation.WhichOneof("operation") == "open":
            self._open(operation.open)
        else:
            self._drop(operation.close.seq_id)

    def answer(self, context: Context, row: int, result: frame_pb2.RowResult, draft: int | None = None) -> None:
        """Samples a token for row `row` of the last step with the sampler of `result.seq_id`, into `result`.

        Args:
            draft: the row's own token, if it was a guess: one that was wrong leaves `result` as it is.
        """
        last_token = self._last_tokens.pop(result.seq_id, None)
        if draft is not None and draft != last_token:
            return
        sampler = self._by_sequence.get(result.seq_id, "no sampler is open for this sequence; open one first")
        if isinstance(sampler, str):
            result.error = sampler
            return
        try:
            sampled = sampler.sample(context, row)
        except SamplingError as error:
            result.error = str(error)
            return
        self._last_tokens[result.seq_id] = sampled.token
        token = result.sampled
        token.token = sampled.token
        if sampled.logprob is not None:
            token.logprob = sampled.logprob
        for candidate, logprob in sampled.top:
            token.top.add(token=candidate, logprob=logprob)

    def last_token(self, seq_id: int) -> int | None:
        """What the sequence's last row sampled; None: nothing."""
        return self._last_tokens.get(seq_id)

    def close(self) -> None:
        """Drops them all."""
        for seq_id in list(self._by_sequence):
            self._drop(seq_id)

    def _open(self, opened: frame_pb2.SamplerOpen) -> None:
        self._drop(opened.seq_id)
        try:
            self._by_sequence[opened.seq_id] = Sampler(
                self._vocabulary,
                _params(opened.params, self._n_ctx_seq),
                prompt_tokens=opened.prompt_tokens,
                generated_tokens=opened.generated_tokens,
            )
        except (GrammarError, SamplingError, ValueError) as error:
            self._by_sequence[opened.seq_id] = str(error)

    def _drop(self, seq_id: int) -> None:
        self._last_tokens.pop(seq_id, None)
        sampler = self._by_sequence.pop(seq_id, None)
        if isinstance(sampler, Sampler):
            sampler.close()


def _params(params: frame_pb2.SamplingParams, n_ctx_seq: int) -> SamplingParams:
    """Raises ValueError for what is out of range."""
    return SamplingParams(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        typical_p=params.typical_p,
        repeat_penalty=params.repeat_penalty,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        repeat_last_n=n_ctx_seq if params.repeat_last_n < 0 else params.repeat_last_n,
        seed=params.seed,
        grammar=params.grammar,
        logit_bias=tuple((entry.token, entry.bias) for entry in params.logit_bias),
        logprobs=params.logprobs,
        n_top_logprobs=params.n_top_logprobs,
        visible_tokens=tuple(params.visible_tokens),
    )
