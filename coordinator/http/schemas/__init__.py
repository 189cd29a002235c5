# SPDX-License-Identifier: MIT
"""What goes over HTTP: one module for each kind of body. Pure data, used by `coordinator.http` alone."""
