"""Keyed hashes in place of raw ids, and the order that users are put in by them.

Whoever has the raw ids, but not the key, learns nothing from an id, an order or a split. The key is stretched by scrypt
(RFC 7914), so that each guess at it costs 32 MiB and some 0.1 s, whether it is checked by an id or by the manifest.
"""

import hashlib
import hmac
import math
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from mmprofile.errors import UserError
from mmprofile.paths import cache_dir

DEMO_KEY = b"mmprofile demo city"  # public on purpose: the demo's users are nobody
SALT = b"mmprofile user ids"
"""The same for everybody: two machines with one key give the same ids."""
LEAST_LENGTH, LEAST_BITS = 16, 40
COMMON = re.compile(
    "mmprofile|user|key|pass(word|phrase)?|secret|change|me|letmein|qwert(y|z)(uiop)?|asdf(ghjkl)?|zxcvbnm?|admin|test|"
    "example|default|benchmark|demo|yelp|correct|horse|battery|staple|hello|world|abc"
)
"""What guessers try first; a key's other signs must be enough."""


class Pseudonyms:
    """What prepared data show of raw ids.

    Args:
        key: the owner's secret.
        public: whether the data are the demo city. Its people are invented and published, and all published figures stand
            on its order, split and ids, so for it alone they stay a hash that anybody can compute.
    """

    def __init__(self, key: bytes, public: bool = False) -> None:
        self.public = public
        self._given, self._key = key, key if public else _stretched(key)
        self.earlier_fingerprint = hashed_id(key, "key")
        """Of the key in the manifests of versions that did not stretch it."""

    @classmethod
    def of(cls, kind: str, make: bool = True) -> "Pseudonyms":
        """Return the pseudonyms of a kind of source; ``make``: see :func:`user_key`.

        Raises:
            UserError: as :func:`user_key`.
        """
        return cls(user_key(kind, make), public=kind == "demo")

    @property
    def fingerprint(self) -> str:
        """Return what the manifest says of the key."""
        return self.earlier_fingerprint if self.public else f"scrypt-{hashed_id(self._key, 'key')}"

    def user(self, raw: str) -> str:
        """Return a user's id, 16 hex digits."""
        return hashed_id(self._key, raw)

    def every_version(self, raw: str) -> set[str]:
        """Return the ids of a user in the data of this and of earlier versions."""
        return {self.user(raw), hashed_id(self._given, raw)}

    def review(self, raw: str) -> str:
        """Return a review's id, 22 hex digits: in raw data it leads to its writer."""
        return raw if self.public else self._digest("review", raw)

    def photo(self, path: str) -> str:
        """Return the id of a photo of own data, 22 hex digits: its path may name a person."""
        return self._digest("photo", path)

    def shuffled(self, users: Iterable[str], seed: int) -> list[str]:
        """Return raw user ids in a random order that depends on the seed, the ids and the key only."""
        if self.public:
            return sorted(users, key=lambda user: hashlib.sha256(f"{seed}:{user}".encode()).digest())
        return sorted(users, key=lambda user: hmac.digest(self._key, f"order {seed}\0{user}".encode(), "sha256"))

    def _digest(self, kind: str, raw: str) -> str:
        return hmac.digest(self._key, f"{kind}\0{raw}".encode(), "sha256").hex()[:22]


def hashed_id(key: bytes, raw: str) -> str:
    """Return the first 16 hex digits of the HMAC-SHA256 of a text."""
    return hmac.digest(key, raw.encode(), "sha256").hex()[:16]


@lru_cache
def _stretched(key: bytes) -> bytes:
    return hashlib.scrypt(key, salt=SALT, n=2**15, r=8, p=1, maxmem=2**26, dklen=32)


def user_key(kind: str, make: bool = True) -> bytes:
    """Return the key of pseudonyms: public for the demo, the owner's own otherwise.

    ``$MMPROFILE_USER_KEY`` if set, else ``user_id.key`` in the cache folder, made on first use for its owner alone.

    Args:
        kind: of the source.
        make: False writes nothing: where there is no key, the one returned is like no other.

    Raises:
        UserError: the key can be guessed, or its file is empty.
    """
    if kind == "demo":
        return DEMO_KEY
    own = os.environ.get("MMPROFILE_USER_KEY")
    if own:
        check_strength(own)
        return own.encode()
    path = cache_dir() / "user_id.key"
    if not path.exists() and not make:
        return secrets.token_bytes(32)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(draft, path)  # whoever comes first has made the key
        except FileExistsError:
            pass
        finally:
            Path(draft).unlink()
    key = path.read_text().strip().encode()
    if not key:
        raise UserError(f"{path} is empty: remove it to have a new key made (user ids will differ from before)")
    return key


def check_strength(key: str) -> None:
    """Refuse a key that somebody could guess.

    Common words, repetitions and runs such as ``abc`` and ``321`` are taken out first. What is left is measured by the
    frequencies of its signs (Shannon's entropy): no proof of strength, but short, simple and repeated keys fail.

    Raises:
        UserError: says how to make a better one; the key itself is not shown.
    """
    left = re.sub(r"^(.+?)\1+$", r"\1", COMMON.sub("", key.lower()))
    signs = [b for a, b in zip("\0" + left, left, strict=False) if abs(ord(a) - ord(b)) > 1]
    shares = [count / len(signs) for count in Counter(signs).values()]
    bits = -len(signs) * sum(share * math.log2(share) for share in shares)
    if len(key) < LEAST_LENGTH or bits < LEAST_BITS:
        raise UserError(
            "MMPROFILE_USER_KEY can be guessed: give 32 or more random hex digits, as `python -c 'import secrets; "
            "print(secrets.token_hex(32))'` prints them, or leave it unset: then a key is made in the cache folder"
        )
