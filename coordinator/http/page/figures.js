// SPDX-License-Identifier: MIT
// Figures as a person reads them. Between a number and its unit no line is broken.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Bytes: "512 KiB", "3.6 GiB". */
export function size(bytes) {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)}\u00a0${UNITS[unit]}`;
}

/** Seconds: "1.2 s", "35 ms", "240 µs". */
export function time(seconds) {
  if (seconds >= 1) return `${seconds.toFixed(1)}\u00a0s`;
  if (seconds >= 0.01) return `${(seconds * 1000).toFixed(0)}\u00a0ms`;
  return seconds >= 0.001 ? `${(seconds * 1000).toFixed(1)}\u00a0ms` : `${(seconds * 1e6).toFixed(0)}\u00a0µs`;
}

export function share(fraction) {
  return `${Math.round(100 * fraction)}\u00a0%`;
}

/** A text as a sentence: "The line broke." */
export function capital(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

export function rate(perSecond) {
  return perSecond >= 100 ? perSecond.toFixed(0) : perSecond.toFixed(1);
}

export function count(n) {
  return String(n);
}

/** A half-open range of layers: "0-3", "4". */
export function range({ layer_start: start, layer_end: end }) {
  return end - start === 1 ? String(start) : `${start}-${end - 1}`;
}

/** The same in words: "layers 0-3", "layer 4". */
export function layers(stage) {
  return `${stage.layer_end - stage.layer_start === 1 ? "layer" : "layers"} ${range(stage)}`;
}
