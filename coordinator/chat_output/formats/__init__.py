# SPDX-License-Identifier: MIT
"""The forms in which models write thoughts and calls of tools: a module for each family of models."""
