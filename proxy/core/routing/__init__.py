"""Where a request goes, decided from its head: a service's routes compiled for cost.

Enters: the routes of ``policy.ServicePolicy``, already found sound, and per request its head and
the calling service. Leaves: the first route that matches and what that route does to the request.
No I/O, no clock, no randomness but what is handed in.

``paths``        the one form in which paths are compared
``conditions``   the parts of a match that are not looked up by path
``matching``     a match on its own, for rate limits and faults
``router``       many routes: paths looked up, the rest tested, first match wins
``route``        one route: its destinations and what it changes
``changes``      rewrite, redirect, header changes
``stickiness``   values that keep requests together
``regex``        RE2, loaded only when a policy has a regular expression
"""

from proxy.core.routing.conditions import Head
from proxy.core.routing.matching import Matcher, compile_match
from proxy.core.routing.paths import normalise_path
from proxy.core.routing.regex import InvalidRegex, compile_regex
from proxy.core.routing.route import CompiledRoute
from proxy.core.routing.router import Router, compile_routes
from proxy.core.routing.stickiness import Hasher, compile_hash, hash_value

__all__ = [
    "CompiledRoute",
    "Hasher",
    "Head",
    "InvalidRegex",
    "Matcher",
    "Router",
    "compile_hash",
    "compile_match",
    "compile_regex",
    "compile_routes",
    "hash_value",
    "normalise_path",
]
