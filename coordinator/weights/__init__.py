# SPDX-License-Identifier: MIT
"""A model's weights, from wherever they are to the workers that load them: what a reference means (`references`), the
sources (`sources`, and a module for each kind), what the workers are offered before planning, and what is given to each
while it loads.
"""
