# SPDX-License-Identifier: MIT
"""A cluster's authority, made from its seed, and the certificates that it signs. The one module that knows
cryptography.

Whoever knows the seed has the authority's key: every member signs for itself, and nobody need be asked. So a
certificate says "knows the join code", and no more; the name in it is for people.
"""

import datetime
import functools
import hashlib
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# gRPC's BoringSSL does not take Ed25519 from a peer (tried: no common signature algorithms).
_CURVE = ec.SECP256R1()
# Of P-256, from FIPS 186-5.
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# 16 bytes more than the order has, so that the remainder is as good as evenly spread.
_KEY_MATERIAL_BYTES = 48
_PURPOSE = b"caravan cluster authority 1"
_N_FINGERPRINT_DIGITS = 16
_MAX_COMMON_NAME = 64

# A machine whose clock is a day off, either way, still takes part.
_SKEW = datetime.timedelta(days=1)
_LIFETIME = datetime.timedelta(days=1)
# The authority ends with its seed, not with a date; RFC 5280, section 4.1.2.5, has this one for "never".
_EVER = (
    datetime.datetime(2000, 1, 1, tzinfo=datetime.timezone.utc),
    datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.timezone.utc),
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A process's own certificate, with its key, as PEM, made at `made_at`."""

    key: bytes = field(repr=False)
    certificate: bytes
    made_at: datetime.datetime

    def is_fresh(self, now: datetime.datetime) -> bool:
        """Whether most of its time is before it; not if the clock was set back, either."""
        return self.made_at - _SKEW / 2 <= now < self.made_at + _LIFETIME / 2


class Authority:
    """Signs for the members of one cluster."""

    def __init__(self, seed: bytes) -> None:
        self._key = _key_of(seed)
        public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        # Of its public key, so it says nothing of the seed.
        self.fingerprint: str = hashlib.sha256(public).hexdigest()[:_N_FINGERPRINT_DIGITS]
        # In every certificate: who connects asks for the cluster, not for a host, whose addresses change.
        self.server_name: str = f"{self.fingerprint}.caravan.internal"
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"caravan {self.fingerprint}")])
        self.certificate: bytes = self._sign(self._key.public_key(), self._subject, *_EVER, is_authority=True)

    def issue(self, name: str, now: datetime.datetime | None = None) -> Leaf:
        """A certificate, good for connecting and for being connected to, with a key of its own.

        Args:
            name: for people: a machine's or a worker's.
            now: the time; None: this machine's.
        """
        now = now or datetime.datetime.now(datetime.timezone.utc)
        key = ec.generate_private_key(_CURVE)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_MAX_COMMON_NAME] or "unnamed")])
        until = now + _LIFETIME + _SKEW
        certificate = self._sign(key.public_key(), subject, now - _SKEW, until, is_authority=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Leaf(private, certificate, now)

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        subject: x509.Name,
        start: datetime.datetime,
        end: datetime.datetime,
        *,
        is_authority: bool,
    ) -> bytes:
        names = x509.SubjectAlternativeName([x509.DNSName(self.server_name)])
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        own = self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(is_authority, path_length=0 if is_authority else None), critical=True)
            .add_extension(_key_usage(is_authority=is_authority), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own), critical=False)
        )
        if not is_authority:
            builder = builder.add_extension(names, critical=False).add_extension(uses, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@functools.lru_cache(maxsize=4)
def authority_of(seed: bytes) -> Authority:
    """The one of that seed; made once."""
    return Authority(seed)


def _key_of(seed: bytes) -> ec.EllipticCurvePrivateKey:
    material = HKDF(hashes.SHA256(), _KEY_MATERIAL_BYTES, salt=None, info=_PURPOSE).derive(seed)
    return ec.derive_private_key(int.from_bytes(material, "big") % (_ORDER - 1) + 1, _CURVE)


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
