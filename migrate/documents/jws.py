"""Checks the signatures of schema-1 manifests: ECDSA and RSA over `protected.payload`, with the embedded key.

Source: libtrust `ec_key.go`, `rsa_key.go` and `jsonsign.go`; RFC 7515 and RFC 7518. A valid signature proves that the
manifest was not changed after the owner of the key signed it. It does not show who the owner is: Docker made a key for
each client, and never established trust in it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from migrate.documents.json_text import shown
from migrate.documents.schema1 import Signature, decode_base64url
from migrate.errors import DocumentError, MigrateError

_HASHES: Final = {"256": "SHA256", "384": "SHA384", "512": "SHA512"}
_CURVES: Final = {"P-256": "SECP256R1", "P-384": "SECP384R1", "P-521": "SECP521R1"}


def signature_problem(payload: bytes, signature: Signature) -> str | None:
    """None if the signature verifies; else why it does not, as the rest of a sentence that begins with "the
    signature"."""
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    except ImportError:
        return "was not checked: pip install 'docker-legacy-migrate[registry]'"
    # The signing input of RFC 7515, 5.1.
    signed = signature.protected.encode() + b"." + base64.urlsafe_b64encode(payload).rstrip(b"=")
    try:
        _verify(signature, signed)
    except InvalidSignature:
        return "does not verify"
    except MigrateError as exc:
        return f"cannot be checked: {exc.message}"
    except (ValueError, UnsupportedAlgorithm) as exc:
        return f"cannot be checked: {exc}"
    return None


def _verify(signature: Signature, signed: bytes) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    algorithm = signature.header.get("alg")
    family, bits = (algorithm[:2], algorithm[2:]) if isinstance(algorithm, str) else ("", "")
    if family not in ("ES", "RS") or bits not in _HASHES:
        raise DocumentError(f"algorithm {shown(algorithm)} is not known")
    digest: hashes.HashAlgorithm = getattr(hashes, _HASHES[bits])()
    key = _public_key(signature.header)
    if family == "ES" and isinstance(key, ec.EllipticCurvePublicKey):
        # JWS has the two numbers of an ECDSA signature one behind the other (RFC 7518, 3.4); the library needs them in
        # DER.
        half = len(signature.value) // 2
        r, s = (int.from_bytes(part, "big") for part in (signature.value[:half], signature.value[half:]))
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
    elif family == "RS" and isinstance(key, rsa.RSAPublicKey):
        key.verify(signature.value, signed, padding.PKCS1v15(), digest)
    else:
        raise DocumentError(f"algorithm {algorithm} does not go with the key")


def _public_key(header: Mapping[str, Any]) -> Any:
    chain = header.get("x5c")
    if isinstance(chain, list) and chain and isinstance(chain[0], str):
        from cryptography import x509

        # The first certificate of the chain is that of the signing key (RFC 7515, 4.1.6).
        return x509.load_der_x509_certificate(base64.b64decode(chain[0])).public_key()
    jwk = header.get("jwk")
    if not isinstance(jwk, dict):
        raise DocumentError("it has no key")
    if jwk.get("kty") == "EC":
        from cryptography.hazmat.primitives.asymmetric import ec

        name = jwk.get("crv")
        curve = _CURVES.get(name) if isinstance(name, str) else None
        if curve is None:
            raise DocumentError(f"curve {shown(name)} is not known")
        return ec.EllipticCurvePublicNumbers(_number(jwk, "x"), _number(jwk, "y"), getattr(ec, curve)()).public_key()
    if jwk.get("kty") == "RSA":
        from cryptography.hazmat.primitives.asymmetric import rsa

        return rsa.RSAPublicNumbers(_number(jwk, "e"), _number(jwk, "n")).public_key()
    raise DocumentError(f"key type {shown(jwk.get('kty'))} is not known")


def _number(jwk: Mapping[str, Any], name: str) -> int:
    value = jwk.get(name)
    if not isinstance(value, str) or not value:
        raise DocumentError(f"key: {name} is missing")
    return int.from_bytes(decode_base64url(value, f"key: {name}"), "big")
