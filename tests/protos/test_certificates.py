# SPDX-License-Identifier: MIT
"""What members derive from a seed, and what they sign. Who takes it: tests/security."""

import datetime

from cryptography import x509

from protos.certificates import Authority
from protos.join_code import SEED_BYTES

_SEED = bytes(range(SEED_BYTES))
_DAY = datetime.timedelta(days=1)


def test_all_who_know_the_seed_have_the_same_authority() -> None:
    one, other = Authority(_SEED), Authority(_SEED)
    # As it was when it was written: else machines of two versions are two clusters.
    assert one.fingerprint == other.fingerprint == "f4e448a11ef47cd1"
    assert one.fingerprint != Authority(bytes(SEED_BYTES)).fingerprint
    leaf = x509.load_pem_x509_certificate(other.issue("desk").certificate)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(one.certificate))


def test_a_certificate_lasts_a_day_with_one_before_and_one_behind_and_signs_nothing() -> None:
    now = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    issued = Authority(_SEED).issue("desk", now)
    leaf = x509.load_pem_x509_certificate(issued.certificate)
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (now - _DAY, now + 2 * _DAY)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert [issued.is_fresh(now + hours * _DAY / 24) for hours in (-13, -11, 0, 11, 13)] == [
        False, True, True, True, False,
    ]  # fmt: skip


def test_a_key_is_not_shown_by_accident() -> None:
    leaf = Authority(_SEED).issue("desk")
    assert "PRIVATE" not in repr(leaf)
