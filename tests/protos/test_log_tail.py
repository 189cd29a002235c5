# SPDX-License-Identifier: MIT
"""What is kept of a log for when its process died: the reason in any case, and nothing that is not to be shown."""

from protos.log_tail import MAX_TAIL_CHARACTERS, LogTail, clean_tail, last_words

_ASSERTION = "/src/ggml-cuda.cu:98: GGML_ASSERT(ne00 <= 1) failed"


def _tail(*lines: str) -> str:
    tail = LogTail()
    for line in lines:
        tail.add(line.encode() + b"\n")
    return tail.text()


def test_the_reason_is_kept_and_found_however_much_a_debugger_says_after_it() -> None:
    stack = [f"#{n} 0x00007f in ggml_abort (fmt=0x55 'GGML_ASSERT(%s) failed') {'x' * 90}" for n in range(500)]
    tail = _tail("loading", _ASSERTION, *stack, "[Inferior 1 (process 7) detached]")
    assert len(tail) <= MAX_TAIL_CHARACTERS
    assert tail.startswith(f"{_ASSERTION}\n[...]\n#")
    assert last_words(tail) == _ASSERTION


def test_without_a_reason_that_is_known_the_last_line_says_most() -> None:
    tail = _tail("Traceback (most recent call last):", '  File "x.py", line 1', "RuntimeError: no device", "")
    assert last_words(tail) == "RuntimeError: no device"
    assert last_words(_tail("terminate called after throwing", "  what():  no memory")) == "what():  no memory"
    assert last_words("") == ""


def test_control_characters_and_secrets_are_left_out() -> None:
    told = _tail(
        "\x1b[31;1mred\x1b[0m\ttext \x07\u202e\x9b",
        "GET https://me:secret@host/model.gguf?X-Signature=secret&e=1: 403",
        "join with 0123-4567-89AB-CDEF-GHJK-MNPQ-RSTV, key caravan-secretsecretsecretsecretsecretsecret0",
        "Authorization: Bearer secret hf_secretsecretsecret",
    )
    assert told == "\n".join(
        [
            "red text ???",
            "GET https://host/model.gguf?[removed] 403",
            "join with [removed], key [removed]",
            "Authorization: Bearer [removed] [removed]",
        ]
    )


def test_a_tail_from_elsewhere_is_within_the_same_bounds() -> None:
    assert clean_tail("a\nb\x1b]0;title\x07c") == "a\nbc"
    assert len(clean_tail("x\n" * 1_000_000)) <= MAX_TAIL_CHARACTERS
    assert len(clean_tail("x" * 1_000_000)) <= MAX_TAIL_CHARACTERS
