"""The file with the secrets of a cluster, and the keys that are made from them.

Decides which files are taken: nobody but this user, or root, may read or own one, and what is in it must be
long enough not to be guessed. A secret itself stays in this module: everybody else has keys, one for each
purpose, from which it cannot be told. Nothing here, and no `repr`, ever shows a secret or a key.
"""

from __future__ import annotations

import contextlib
import os
import stat
from hashlib import blake2b
from pathlib import Path
from secrets import token_urlsafe
from typing import Final

import msgspec

from paxmux.engine.errors import ConfigError

SECRETS_MAX: Final = 2
"""The one that seals, and another one during a rotation."""
LENGTH_MIN: Final = 32
FILE_BYTES_MAX: Final = 16 * 1024
KEY_BYTES: Final = 32
_NEW_BYTES: Final = 48
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

State = tuple[int, int, int, int]
"""What changes with the content of a file: inode, size, and when the two were last changed, in ns."""


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is made from one secret."""

    datagram: bytes
    """Seals datagrams."""
    connection: bytes
    """Proves at both ends of a new connection who knows the secret, and makes the key of its frames."""
    fingerprint: str
    """Tells secrets apart; it may be shown."""

    def __repr__(self) -> str:
        return f"Keys({self.fingerprint})"


def keys_of(secret: bytes) -> Keys:
    """The keys of one secret."""
    return Keys(
        _derived(secret, b"datagram"),
        _derived(secret, b"connection"),
        _derived(secret, b"fingerprint")[:4].hex(),
    )


def _derived(secret: bytes, purpose: bytes) -> bytes:
    # A key has at most 64 bytes, a secret may be longer: it is the message, under a name of its own.
    return blake2b(secret, digest_size=KEY_BYTES, person=b"paxmux secret 1", salt=purpose).digest()


def read_keys(path: Path) -> tuple[Keys, ...]:
    """The keys of each secret in a file; the first one is to seal, all are to be accepted.

    Raises:
        ConfigError: names the file, what was expected and what it is; never what is in it.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[tuple[Keys, ...], State]:
    try:
        # Not to hang on what is no file.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a readable file of secrets (`paxmux secret new` makes one), "
            f"got: {error.strerror}"
        ) from None
    try:
        found = os.fstat(fd)
        _check_file(path, found)
        content = bytearray()
        while part := os.read(fd, FILE_BYTES_MAX + 1 - len(content)):
            content += part
    except OSError as error:
        raise ConfigError(f"{path}: expected a readable file of secrets, got: {error.strerror}") from None
    finally:
        os.close(fd)
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: expected at most {FILE_BYTES_MAX} bytes, got a larger file")
    return _parse(path, bytes(content)), _state(found)


def _check_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path}: expected a file of secrets, got something that is no file")
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{path}: expected a file of this user (uid {os.geteuid()}) or of root, "
            f"got one of uid {found.st_uid}"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OTHERS:
        raise ConfigError(
            f"{path}: expected a file that its owner alone may use (mode 0600), got mode {mode:04o}; "
            f"others may know the secret: make a new one"
        )


def _parse(path: Path, content: bytes) -> tuple[Keys, ...]:
    secrets: list[bytes] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        secret = line.strip()
        if not secret or secret.startswith(b"#"):
            continue
        if len(secret) < LENGTH_MIN:
            raise ConfigError(
                f"{path}:{number}: expected a secret of at least {LENGTH_MIN} characters, "
                f"got one of {len(secret)}"
            )
        if secret in secrets:
            raise ConfigError(f"{path}:{number}: expected each secret once, got one twice")
        secrets.append(secret)
    if not 1 <= len(secrets) <= SECRETS_MAX:
        raise ConfigError(
            f"{path}: expected one secret, or two during a rotation, each on a line, got {len(secrets)}"
        )
    return tuple(map(keys_of, secrets))


def new_secret_file(path: Path) -> Keys:
    """Make a file with a fresh secret, for this user alone; never replaces one.

    Raises:
        ConfigError: it is there already, or cannot be made.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
    except OSError as error:
        raise ConfigError(f"{path}: expected a place for a new file, got: {error.strerror}") from None
    secret = token_urlsafe(_NEW_BYTES).encode()
    try:
        with open(fd, "wb") as stream:
            # The mask of this process may have taken more than it must.
            os.fchmod(fd, stat.S_IRUSR | stat.S_IWUSR)
            stream.write(secret + b"\n")
            stream.flush()
            os.fsync(fd)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise ConfigError(f"{path}: cannot write it: {error.strerror}") from None
    return keys_of(secret)


class SecretFile:
    """A file of secrets that may change while it is in use."""

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            ConfigError: as `read_keys`.
        """
        self.path = path
        self.problem: str | None = None
        """Why the file as it is now was not taken; the keys are those of the last one that was."""
        self.keys, self._taken = _read(path)
        self._seen: State | None = self._taken

    def look(self) -> bool:
        """Whether there are other keys, or another problem, than at the last call.

        A change is taken once it is as old as the time between two calls: not from half a file.
        """
        now = self._now()
        if now != self._seen:
            self._seen = now
            return False
        if now == self._taken:
            return False
        keys, problem = self.keys, self.problem
        try:
            self.keys, read = _read(self.path)
        except ConfigError as error:
            self.problem = str(error)
            # Its mode may be mended, which no time of the content shows: so it is looked at again.
            return self.problem != problem
        self.problem = None
        self._seen = self._taken = read
        return self.keys != keys or problem is not None

    def _now(self) -> State | None:
        try:
            return _state(os.stat(self.path))
        except OSError:
            return None


def _state(found: os.stat_result) -> State:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
