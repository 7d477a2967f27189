"""Policies and requests drawn by lot, for comparing what is told of them with what happens.

Everything comes from one seed. Policies have routes with every kind of match, rewrites, splits,
redirects, failover, faults, limits, and intentions of every kind; requests have odd paths, queries,
headers that imitate, and now and then a head that is no HTTP.
"""

import datetime
import random

from meshctl.policy.explaining import Request
from proxy.core.soundness import check
from proxy.model.authorization import Intention
from proxy.model.names import ServiceName
from proxy.model.policy import Policy, Route, ServicePolicy, Subset
from proxy.model.resilience import Failover, Fault, RateLimit
from proxy.model.routing import (
    Destination,
    DirectResponse,
    HashOn,
    HeaderChanges,
    Match,
    PathMatch,
    Redirect,
    Rewrite,
    TextMatch,
)

SERVICES = ("api", "api2", "orders")
MANY = 1_000_000
"""Of a rate limit: enough for it never to refuse."""

PATHS = (
    "/", "/v1", "/v1/", "/v1/x", "/v10", "/v2/x/y", "/admin", "/admin/users", "/users/7",
    "/users/7/orders/3", "/users/7/orders", "/static/a.css", "/a~b", "/v1/caf%C3%A9",
)  # fmt: skip
SPELLINGS = (
    lambda p: p, lambda p: p, lambda p: p, lambda p: p,
    lambda p: p.replace("/", "//", 1),
    lambda p: "/x/.." + p,
    lambda p: "/." + p,
    lambda p: p + "/..",
    lambda p: p + "/.",
    lambda p: p.replace("a", "%61", 1),
    lambda p: p.replace("v", "%76", 1),
    lambda p: p.upper(),
    lambda p: p + "%2Fadmin",
    lambda p: p + ";v=1",
    lambda p: p + "/..;/admin",
    lambda p: p + "%",
    lambda p: p + "%00",
    lambda p: p + "%252e",
    lambda p: p + "%ff",
    lambda p: p.replace("/", "\\", 2) if p.count("/") > 1 else p + "\\x",
    lambda p: p + "%20b",
)  # fmt: skip
QUERIES = (
    "",
    "",
    "",
    "?debug=1",
    "?debug=",
    "?a=b&debug=2",
    "?q=%61b",
    "?q=a+b",
    "?x=/../admin",
    "?",
)
METHODS = ("GET", "GET", "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")
FIELDS = (
    ("X-Canary", "yes"), ("x-canary", "no"), ("X-Canary", ""), ("x-team", "blue-7"),
    ("X-Team", "red"), ("x-team", "blue-7, red"), ("Cookie", "user=ann"),
    ("cookie", "a=b; user=bob"),
    ("x-user", "ann"), ("x-user", "bob"), ("x-mesh-policy", "api/free"), ("X-Mesh-Flag", "UAEX"),
    ("x_canary", "yes"), ("Connection", "x-canary"), ("Connection", "x-team, close"),
    ("X-Forwarded-Client-Cert", "By=x;URI=spiffe://mesh.test/svc/web"), ("x-request-id", "mine"),
    ("Content-Length", "0"), ("TE", "trailers"), ("Authorization", "Bearer x"),
)  # fmt: skip
BROKEN = (
    ("BREW", "/", ()), ("GET", "/a#b", ()), ("GET", "v1", ()), ("CONNECT", "api:80", ()),
    ("GET", "/", (("Content-Length", "1x"),)), ("GET", "/", (("x y", "z"),)),
    ("GET", "/", (("Upgrade", "websocket"), ("Connection", "upgrade"))),
    ("GET", "/", (("Transfer-Encoding", "cow"),)), ("GET", "/", (("Host", "a b"),)),
)  # fmt: skip
HOSTS = ("{}", "{}.mesh", "{}.mesh.test", "{}.MESH:80", "{}:8080", "nobody.mesh", "[::1]:80")


class Lot:
    """Everything that is drawn, from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def some(self, most: int) -> range:
        return range(self.rng.randint(0, most))

    def path_match(self) -> PathMatch:
        path = self.rng.choice(PATHS)
        return self.rng.choice(
            (
                PathMatch(prefix=path),
                PathMatch(prefix=path),
                PathMatch(exact=path),
                PathMatch(
                    template=self.rng.choice(("/users/{id}", "/users/*/orders/{n}", "/v1/**"))
                ),
                PathMatch(
                    regex=self.rng.choice(("/v[0-9]+/.*", "/[a-z]*", "(?i)/ADMIN.*", "/.*\\.css"))
                ),
            )
        )

    def text_match(self) -> TextMatch:
        return self.rng.choice(
            (
                TextMatch(exact=self.rng.choice(("yes", "red", "1", "ab", "ann"))),
                TextMatch(prefix=self.rng.choice(("blue", "b", "a"))),
                TextMatch(regex=self.rng.choice(("[a-z]+", "blue-[0-9]+", ".*"))),
                TextMatch(present=self.rng.choice((True, False))),
            )
        )

    def match(self, *, sources: bool) -> Match:
        rng = self.rng
        return Match(
            path=self.path_match() if rng.random() < 0.6 else None,
            methods=tuple(rng.sample(("GET", "POST", "PUT", "DELETE", "HEAD"), rng.randint(1, 3)))
            if rng.random() < 0.3
            else (),
            headers={rng.choice(("x-canary", "x-team", "x-user")): self.text_match()}
            if rng.random() < 0.3
            else {},
            query={rng.choice(("debug", "q")): self.text_match()} if rng.random() < 0.15 else {},
            authorities=rng.choice((("api.mesh",), ("*.mesh",), ("api", "orders.mesh")))
            if rng.random() < 0.1
            else (),
            sources=(ServiceName(rng.choice(("web", "other"))),)
            if sources and rng.random() < 0.15
            else (),
        )

    def route(self, service: str, number: int) -> Route:
        rng = self.rng
        name = f"r{number}"
        match = self.match(sources=True)
        marked = HeaderChanges(set={"x-route": name})
        kind = rng.random()
        if kind < 0.1:
            return Route(
                name=name, match=match, response_headers=marked,
                respond=DirectResponse(status=rng.choice((200, 204, 418, 503)), body="made"),
            )  # fmt: skip
        if kind < 0.2:
            redirect = rng.choice(
                (
                    Redirect(path="/new"),
                    Redirect(scheme="https"),
                    Redirect(authority="b.test", status=308),
                )
            )
            return Route(name=name, match=match, response_headers=marked, redirect=redirect)
        others = [ServiceName(each) for each in SERVICES if each != service]
        to = tuple(
            rng.choice(
                (
                    Destination(weight=rng.choice((0, 1, 100))),
                    Destination(service=rng.choice(others), weight=rng.choice((0, 1, 3))),
                    Destination(service=ServiceName("undeclared"), weight=rng.choice((0, 1))),
                    Destination(subset=rng.choice(("one", "two")), weight=rng.choice((1, 100))),
                    Destination(subset="none", weight=rng.choice((0, 1))),
                )
            )
            for _ in self.some(3)
        )  # fmt: skip
        rewrite = None
        if rng.random() < 0.35:
            path = "/seen" if match.path is None or match.path.template is None else "/seen/{id}"
            rewrite = rng.choice(
                (
                    Rewrite(path=path),
                    Rewrite(path="/admin"),
                    Rewrite(path="/v1/x", authority="old.test"),
                )
            )
        changes = HeaderChanges(
            remove=("x-team",) if rng.random() < 0.3 else (),
            set={"x-canary": "yes"} if rng.random() < 0.3 else {},
        )
        sticky = None
        if len(to) > 1 and rng.random() < 0.4:
            sticky = rng.choice(
                (HashOn(header="x-user"), HashOn(cookie="user"), HashOn(source=True))
            )
        return Route(
            name=name, match=match, to=to, rewrite=rewrite, sticky=sticky,
            request_headers=changes if changes != HeaderChanges() else None,
            response_headers=marked,
        )  # fmt: skip

    def intention(self, number: int, world: int) -> Intention:
        callers = self.rng.choice((("*",), ("web",), ("other",), ("web", "other")))
        is_deny = self.rng.random() < 0.3
        return Intention(
            name=f"w{world}-i{number}",
            allow=() if is_deny else callers,
            deny=callers if is_deny else (),
            is_audit=self.rng.random() < 0.2,
            match=self.match(sources=False) if self.rng.random() < 0.75 else Match(),
        )

    def service(self, service: str, world: int, until: datetime.datetime) -> ServicePolicy:
        rng = self.rng
        subsets = {
            "one": Subset(version="v1"),
            "two": Subset(version="v2"),
            "none": Subset(version="v9"),
        }
        failover: tuple[Failover, ...] = ()
        if rng.random() < 0.5:
            others = [each for each in SERVICES if each != service]
            failover = (Failover(service=ServiceName(rng.choice(others))),)
        return ServicePolicy(
            subsets=subsets,
            routes=tuple(self.route(service, number) for number in self.some(5)),
            failover=failover,
            intentions=tuple(self.intention(number, world) for number in self.some(4)),
            rate_limits=tuple(
                RateLimit(name=f"l{number}", requests=MANY, match=self.match(sources=True))
                for number in self.some(1)
            ),
            faults=tuple(
                Fault(
                    name=f"f{number}", until=until, match=self.match(sources=True),
                    percent=rng.choice((0.0, 100.0)), abort_status=rng.choice((418, 503)),
                )
                for number in self.some(1) if rng.random() < 0.3
            ),
        )  # fmt: skip

    def policy(self, world: int, until: datetime.datetime) -> Policy:
        """Each service's is drawn again until it is sound."""
        services: dict[ServiceName, ServicePolicy] = {
            ServiceName(name): ServicePolicy(
                subsets={
                    "one": Subset(version="v1"),
                    "two": Subset(version="v2"),
                    "none": Subset(version="v9"),
                }
            )
            for name in SERVICES
        }
        for name in SERVICES:
            for _ in range(200):
                drawn = self.service(name, world, until)
                trial = services | {ServiceName(name): drawn}
                if not check(Policy(services=trial)):
                    services = trial
                    break
            else:
                raise AssertionError("nothing sound was drawn")
        return Policy(services=services)

    def request(self) -> Request:
        rng = self.rng
        if rng.random() < 0.03:
            method, target, fields = rng.choice(BROKEN)
            return Request(method=method, target=target, fields=fields)
        method = rng.choice(METHODS)
        target = rng.choice(SPELLINGS)(rng.choice(PATHS)) + rng.choice(QUERIES)
        if rng.random() < 0.02:
            method, target = "OPTIONS", "*"
        fields = tuple(rng.sample(FIELDS, rng.randint(0, 4)))
        return Request(method=method, target=target, fields=fields)
