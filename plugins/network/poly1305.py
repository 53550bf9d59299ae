"""Poly1305 of the OpenSSL library that Python itself uses: the fastest code for large frames.

It decides only whether that is there: Python need not have OpenSSL 3 as a library that can be looked into.
Where it is missing, both ends of a connection use BLAKE2b instead (see `session.py`), at a tenth of the
speed. A key is good for one message.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final

TAG_BYTES: Final = 16
KEY_BYTES: Final = 32

# RFC 8439, 2.5.2
_KEY: Final = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
_MESSAGE: Final = b"Cryptographic Forum Research Group"
_TAG: Final = bytes.fromhex("a8061dc1305136c6c22b8baf0c0127a9")


class Poly1305:
    """One at a time: it is used in one thread."""

    def __init__(self, library: ctypes.PyDLL, method: int) -> None:
        self._library = library
        self._context = None
        self._context = library.EVP_MAC_CTX_new(method)
        if not self._context:
            raise MemoryError("OpenSSL has no memory for a context")
        self._tag = ctypes.create_string_buffer(TAG_BYTES)
        self._length = ctypes.c_size_t()

    def tag(self, key: bytes, message: bytes | bytearray) -> bytes:
        """The tag of a message under a key that nothing else is tagged by.

        Raises:
            RuntimeError: OpenSSL refused.
        """
        library, context = self._library, self._context
        # Bytes are passed as they are, what may grow is held while it is looked at.
        data: Any = message
        if isinstance(message, bytearray):
            data = (ctypes.c_char * len(message)).from_buffer(message)
        if not (
            library.EVP_MAC_init(context, key, KEY_BYTES, None)
            and library.EVP_MAC_update(context, data, len(message))
            and library.EVP_MAC_final(context, self._tag, ctypes.byref(self._length), TAG_BYTES)
        ):
            raise RuntimeError("OpenSSL refused to compute a Poly1305")
        return self._tag.raw

    def __del__(self) -> None:
        if self._context:
            self._library.EVP_MAC_CTX_free(self._context)


def poly1305() -> Poly1305 | None:
    """One of its own for who asks; None if this Python has none."""
    found = _found()
    return None if found is None else Poly1305(*found)


@functools.cache
def _found() -> tuple[ctypes.PyDLL, int] | None:
    """The library, and its Poly1305, if it gives the right answer."""
    try:
        import _hashlib

        # A library's handle gives what the libraries have that it needs: the very OpenSSL that hashlib uses.
        # With the interpreter's lock held: the calls are short, and to get it back could take long.
        library = ctypes.PyDLL(getattr(_hashlib, "__file__", None))
        pointer = ctypes.c_void_p
        fetch = library.EVP_MAC_fetch
        for name, result, arguments in (
            ("EVP_MAC_CTX_new", pointer, [pointer]),
            ("EVP_MAC_CTX_free", None, [pointer]),
            ("EVP_MAC_init", ctypes.c_int, [pointer, ctypes.c_char_p, ctypes.c_size_t, pointer]),
            ("EVP_MAC_update", ctypes.c_int, [pointer, pointer, ctypes.c_size_t]),
            ("EVP_MAC_final", ctypes.c_int, [pointer, pointer, pointer, ctypes.c_size_t]),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (ImportError, OSError, AttributeError):
        return None
    fetch.restype, fetch.argtypes = pointer, [pointer, ctypes.c_char_p, ctypes.c_char_p]
    method = fetch(None, b"POLY1305", None)
    if not method or Poly1305(library, method).tag(_KEY, _MESSAGE) != _TAG:
        return None
    return library, method
