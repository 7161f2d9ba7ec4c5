"""Caches of forwarded tickets: ``MEMORY:`` ones, which only this process can read and which end with it.

A cache's name is random, and is all that the rest of the hub knows. The package ``gssapi`` cannot destroy a cache, so MIT's libkrb5, which it uses, is
asked directly (krb5_cc_destroy); it overwrites the session keys.
"""

from __future__ import annotations

import ctypes
import secrets
import weakref
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from threading import Lock


class ForwardedTickets:
    """A person's tickets until their end: destroyed by :meth:`close`, at the latest with this object, unless somebody takes them.

    :class:`~batchhub.core.asking.Held`, as a connection that was let in is.
    """

    def __init__(self, until: datetime) -> None:
        """Raises OSError where they could not be destroyed again."""
        _krb5()
        self.until = until
        self.name = f"MEMORY:batchhub-{secrets.token_hex(16)}"
        self._end = weakref.finalize(self, destroy, self.name)

    def take(self) -> str:
        """The cache's name. Whoever takes it destroys it. Empty when it is closed or taken."""
        return self.name if self._end.detach() is not None else ""

    def close(self) -> None:
        """Nobody wants them."""
        self._end()


def destroy(ccache: str) -> None:
    """Remove a cache, and overwrite the keys in it; harmless when it is gone."""
    library = _krb5()
    found = ctypes.c_void_p()
    with library.lock:
        if library.functions.krb5_cc_resolve(library.context, ccache.encode(), ctypes.byref(found)) == 0:
            library.functions.krb5_cc_destroy(library.context, found)


@dataclass(frozen=True, slots=True)
class _Krb5:
    """The library, a context of it, and a lock: a context is one thread's at a time."""

    functions: ctypes.CDLL
    context: ctypes.c_void_p
    lock: Lock = field(default_factory=Lock)


@cache
def _krb5() -> _Krb5:
    """What ``gssapi`` has loaded as well, so that its caches are the same.

    Made before the first tickets are kept and never again: destroying them must not fail because krb5.conf has changed. Raises OSError.
    """
    krb5, context = ctypes.CDLL("libkrb5.so.3"), ctypes.c_void_p()
    for function in (krb5.krb5_init_context, krb5.krb5_cc_resolve, krb5.krb5_cc_destroy):
        function.restype = ctypes.c_int32
    krb5.krb5_init_context.argtypes = [ctypes.c_void_p]
    krb5.krb5_cc_resolve.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    krb5.krb5_cc_destroy.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    if krb5.krb5_init_context(ctypes.byref(context)):
        raise OSError("libkrb5 cannot read its configuration")
    return _Krb5(krb5, context)
