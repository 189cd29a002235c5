# SPDX-License-Identifier: MIT
"""The parts of `scripts/train_demo_model`: a little world, a tokenizer, a small llama, its GGUF file."""
