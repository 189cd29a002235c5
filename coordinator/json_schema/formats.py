# SPDX-License-Identifier: MIT
"""The formats of strings that JSON Schema names, as patterns. Each is narrower than its format where that is simpler.

Source of the names: draft 2020-12, validation, section 7.3. What is none of them (`password`, `binary`, `int32`) is a
note to people by the specification, and says nothing of what is valid.
"""

from __future__ import annotations

from collections.abc import Mapping

_YEAR = "[1-9][0-9]{3}"
# The 29th of February in leap years from 1200 on, all of which divide by 4, and by 400 where they divide by 100.
_LEAP_YEAR = "[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:{_LEAP_YEAR})-02-29)"
)
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_CLOCK})"
_LABEL = "[A-Za-z0-9]{1,20}(?:-[A-Za-z0-9]{1,20}){0,2}"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,2}}"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})?\.[A-Za-z]{{2,12}}"
_EMAIL = rf"[A-Za-z0-9]{{1,16}}(?:[._+-][A-Za-z0-9]{{1,16}}){{0,2}}@{_DOMAIN}"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_HEX = "[0-9a-fA-F]"
_PATH = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*"
_ADDRESS = rf"(?:/{_PATH})*(?:\?{_PATH})?(?:#{_PATH})?"
# Without the limits of names, which are many states: addresses are often given a `maxLength` of thousands.
_SITE = r"[a-z0-9]+(?:[.-][a-z0-9]+)*\.[a-z]{2,6}"
_URI = rf"https?://{_SITE}(?::[1-9][0-9]{{1,3}})?{_ADDRESS}"
_POINTER = "(?:/(?:[^~/]|~[01])*)*"
_DURATION = (
    "P(?:[0-9]{1,4}W|(?:[0-9]{1,4}Y(?:[0-9]{1,4}M(?:[0-9]{1,4}D)?)?|[0-9]{1,4}M(?:[0-9]{1,4}D)?|[0-9]{1,4}D)"
    "(?:T(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?|[0-9]{1,4}M(?:[0-9]{1,4}S)?|[0-9]{1,4}S))?"
    "|T(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?|[0-9]{1,4}M(?:[0-9]{1,4}S)?|[0-9]{1,4}S))"
)

_BODIES = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": _DURATION,
    "email": _EMAIL,
    "idn-email": _EMAIL,
    "hostname": _HOST,
    "idn-hostname": _HOST,
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "ipv6": f"(?:{_HEX}{{1,4}}:){{7}}{_HEX}{{1,4}}|(?:{_HEX}{{1,4}}:){{1,5}}:{_HEX}{{1,4}}|::{_HEX}{{1,4}}",
    "uri": _URI,
    "uri-reference": _URI,
    "iri": _URI,
    "iri-reference": _URI,
    "uri-template": _URI,
    "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]{{0,3}})(?:#|{_POINTER})",
    "regex": r"[A-Za-z0-9 _]{1,64}",
}

FORMATS: Mapping[str, str] = {name: f"^(?:{body})$" for name, body in _BODIES.items()}
"""Patterns, by the name of the format."""
