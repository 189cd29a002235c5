# SPDX-License-Identifier: MIT
"""OpenAI's HTTP API over a mesh; see docs/http.md. `caravan serve` is its caller.

One request: `app` (routes) → `body` (read, check) → `translate` (sampling) → the mesh → `streaming` or
`collecting`, in one of the `forms`. Errors of every kind get their answer in `errors`.
"""
