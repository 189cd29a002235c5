# SPDX-License-Identifier: MIT
"""What an answer took and how far its prompt is, in llama-server's words. Pure. Source: `server_slot_stats` and
`result_prompt_progress` in llama.cpp's tools/server.
"""

from __future__ import annotations

from coordinator import generation
from coordinator.http.schemas.answer import PromptProgress, Timings


def timings_of(usage: generation.Usage) -> Timings:
    """What it took, until its end or until now."""
    n_prompt, n_steps = usage.prompt_tokens - usage.cached_tokens, max(0, usage.completion_tokens - 1)
    prompt_ms, predicted_ms = 1e3 * usage.prefill_s, 1e3 * usage.decode_s if usage.completion_tokens else 0.0
    has_drafts = usage.drafted_tokens > 0
    return Timings(
        cache_n=usage.cached_tokens,
        prompt_n=n_prompt,
        prompt_ms=prompt_ms,
        prompt_per_token_ms=_ratio(prompt_ms, n_prompt),
        prompt_per_second=_ratio(1e3 * n_prompt, prompt_ms),
        predicted_n=usage.completion_tokens,
        predicted_ms=predicted_ms,
        predicted_per_token_ms=_ratio(predicted_ms, n_steps),
        predicted_per_second=_ratio(1e3 * n_steps, predicted_ms),
        draft_n=usage.drafted_tokens if has_drafts else None,
        draft_n_accepted=usage.guessed_tokens if has_drafts else None,
    )


def progress_of(progress: generation.PromptProgress) -> PromptProgress:
    """How far a prompt is."""
    return PromptProgress(
        total=progress.total_tokens,
        cache=progress.cached_tokens,
        processed=progress.done_tokens,
        time_ms=int(1e3 * progress.elapsed_s),
    )


def _ratio(number: float, by: float) -> float:
    """0 where there is nothing to divide by, as llama-server has it."""
    return number / by if by > 0 else 0.0
