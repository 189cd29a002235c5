# SPDX-License-Identifier: MIT
"""Split equals whole: the same logits, bit for bit, from a line of stages as from llama.cpp alone."""
