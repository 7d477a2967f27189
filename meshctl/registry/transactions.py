"""The body of PUT /v1/txn to the operations of ``kv``, or to the refusal Consul would send."""

import base64
import binascii
import json

from meshctl.registry.calls import Answer, json_answer, plain
from meshctl.registry.definitions import BadRequest, NotImplementedHere
from meshctl.registry.kv import MAX_OPERATIONS, MAX_VALUE_BYTES, Operation, Verb


def parse(body: bytes) -> tuple[Operation, ...] | Answer:
    """Raises BadRequest and NotImplementedHere like ``definitions``."""
    try:
        raw = json.loads(body or b"")
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"Failed to parse body: {error}") from None
    if not isinstance(raw, list):
        raise BadRequest("Failed to parse body: a transaction is a JSON list")
    if len(raw) > MAX_OPERATIONS:
        return plain(
            413, f"Transaction contains too many operations ({len(raw)} > {MAX_OPERATIONS})"
        )
    operations: list[Operation] = []
    for position, item in enumerate(raw):
        operation = _operation(item, position)
        if isinstance(operation, Answer):
            return operation
        operations.append(operation)
    return tuple(operations)


def _operation(item: object, position: int) -> Operation | Answer:
    if not isinstance(item, dict) or not isinstance(item.get("KV"), dict) or len(item) != 1:
        raise NotImplementedHere("a transaction of anything but KV operations")
    fields = item["KV"]
    unknown = fields.keys() - {"Verb", "Key", "Value", "Flags", "Index", "Session"}
    if unknown:
        raise BadRequest(f'Failed to parse body: json: unknown field "{min(unknown)}"')
    verb, key = fields.get("Verb", ""), fields.get("Key", "")
    index, flags = fields.get("Index", 0), fields.get("Flags", 0)
    if not isinstance(verb, str) or not isinstance(key, str):
        raise BadRequest("Failed to parse body: Verb and Key must be strings")
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (index, flags)):
        raise BadRequest("Failed to parse body: Index and Flags must be unsigned integers")
    if verb in ("lock", "unlock", "check-session"):
        raise NotImplementedHere(f"the transaction verb {verb}")
    try:
        known = Verb(verb)
    except ValueError:
        return _refused(position, f'unknown KV verb "{verb}"')
    if not key and known not in (Verb.GET_TREE, Verb.DELETE_TREE):
        return _refused(position, "Must provide key")
    try:
        value = base64.b64decode(fields.get("Value") or "", validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise BadRequest(f"Failed to parse body: illegal base64 data: {error}") from None
    if len(value) > MAX_VALUE_BYTES:
        return plain(
            413, f"Value for key {key!r} is too large ({len(value)} > {MAX_VALUE_BYTES} bytes)"
        )
    return Operation(verb=known, key=key, value=value, flags=flags, index=index)


def _refused(position: int, what: str) -> Answer:
    return json_answer(
        {"Results": None, "Errors": [{"OpIndex": position, "What": what}]}, status=409
    )
