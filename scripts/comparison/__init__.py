# SPDX-License-Identifier: MIT
"""What llama.cpp's own tests check of its server, asked of a real llama-server and of ours: scripts/compatibility."""
