"""Keys of ``tokens``, and of what an intention asks of a token."""

from meshctl.policy.matching import HEADER, NAME, TEXT_MATCH
from meshctl.policy.pieces import Many, Text, Time, Word
from meshctl.policy.section import Field, Section, Table, Whole
from proxy.core.soundness.authorization import ALGORITHMS
from proxy.core.soundness.numbers import RANGES
from proxy.model.authorization import TokenProvider, TokenRule

TOKEN_RULE = Section(
    title="token",
    struct=TokenRule,
    about="A JSON Web Token that the request has to bring along. A text alone is the provider.",
    short="provider",
    fields=(
        Field(
            key="provider",
            shape=NAME,
            about="One of `tokens` at the top of the file.",
            is_required=True,
        ),
        Field(
            key="claims",
            shape=Table(value=Whole(section=TEXT_MATCH), what="claim"),
            about="What it says besides, by name, or by a path with dots: `realm.roles`. Of a "
            "list, one element is enough.",
        ),
    ),
)

TOKEN_PROVIDER = Section(
    title="token_provider",
    struct=TokenProvider,
    about="Whose JSON Web Tokens are believed, and where its public keys are. The called side's "
    "proxy verifies them; the application gets the header unchanged.",
    one_of=("jwks_file", "jwks_url"),
    fields=(
        Field(
            key="issuer",
            shape=Text("issuer"),
            about="The claim `iss` is this, letter by letter.",
            is_required=True,
        ),
        Field(
            key="audiences",
            shape=Many(Text("audience")),
            about="The claim `aud` has one of these.",
            is_required=True,
        ),
        Field(
            key="jwks_file",
            shape=Text("path", "^/"),
            about="A JWK set on each host that carries a service which asks for these tokens; "
            "read again when it changes.",
        ),
        Field(
            key="jwks_url",
            shape=Text("URL", "^https?://"),
            about="The same over https, by the host's own CAs; http on loopback only.",
        ),
        Field(
            key="algorithms",
            shape=Many(Word(ALGORITHMS)),
            about="What a token may be signed with.",
            source="ours",
        ),
        Field(
            key="header",
            shape=HEADER,
            about="Where the token is: `authorization` has `Bearer` before it, another header "
            "the token alone.",
            source="RFC 6750",
        ),
        Field(
            key="refresh",
            field="refresh_s",
            shape=Time(RANGES[TokenProvider]["refresh_s"]),
            about="How old the keys of `jwks_url` may get. A key id that is not among them asks at "
            "once, at most every ten seconds.",
            source="ours",
        ),
        Field(
            key="leeway",
            field="leeway_s",
            shape=Time(RANGES[TokenProvider]["leeway_s"]),
            about="How far the clocks of issuer and host may differ, for `exp`, `nbf` and `iat`.",
            source="ours",
        ),
    ),
)

TOKENS = Table(value=Whole(section=TOKEN_PROVIDER), what="name", keys=NAME.pattern)
"""The value of ``tokens``."""
