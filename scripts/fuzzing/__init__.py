# SPDX-License-Identifier: MIT
"""Fuzzing of what strangers send: headers of GGUF files, offers of them, messages. Run by scripts/fuzz_headers."""
