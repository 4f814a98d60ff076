"""`POST /v0/swarm/<capability>/<hex>` and `POST /v0/swarm`: mirrors find each other, and get leases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import bottle

from core.config.config import Config
from core.digest import Digest
from core.errors import CapabilityInvalid, InvalidName, SwarmMessageInvalid, Unavailable
from core.networks import Networks
from core.swarm.messages import (
    MAX_REQUEST,
    Message,
    Peer,
    Seed,
    SeedsAnswer,
    SeedsRequest,
    SwarmAnswer,
    SwarmRequest,
)
from core.torrents.capability import mint, verify
from web.errors import error, unavailable
from web.request import path_after, read_body
from web.status_networks import caller_address
from web.swarm_coordinator import Coordinator

log = logging.getLogger(__name__)


class SwarmHandler:
    """Answers swarm calls. `clock` returns Unix seconds."""

    def __init__(
        self, config: Config, coordinator: Coordinator, secret: bytes, clock: Callable[[], float]
    ) -> None:
        self._coordinator = coordinator
        self._secret = secret
        self._lifetime = config.torrents.web_seed_lifetime
        self._trusted_proxies = config.application.trusted_proxies
        self._clock = clock

    def call(self, rest: str) -> bottle.HTTPResponse:
        """Answer a node that takes part in the swarm of a layer."""
        capability, _, hex_digits = path_after("/v0/swarm/").partition("/")
        try:
            renewed = self._renew(capability, hex_digits)
        except (CapabilityInvalid, InvalidName) as refused:
            log.info("swarm call refused reason=%s", type(refused).__name__)
            return error(403, "DENIED", "the capability is invalid or has expired")
        environ = bottle.request.environ
        try:
            request = SwarmRequest.decode(read_body(environ, MAX_REQUEST))
            peer = Peer(ip=peer_address(environ, self._trusted_proxies), port=request.port)
            reply = self._coordinator.call(hex_digits, peer, request)
        except SwarmMessageInvalid as invalid:
            return _invalid(invalid)
        except Unavailable as failed:
            return _unavailable(failed)
        return _json(
            SwarmAnswer(peers=reply.peers, leases=reply.leases, again=reply.interval, capability=renewed)
        )

    def announce_seeds(self) -> bottle.HTTPResponse:
        """Answer a node that announces its complete layers."""
        environ = bottle.request.environ
        try:
            request = SeedsRequest.decode(read_body(environ, MAX_REQUEST))
            peer = Peer(ip=peer_address(environ, self._trusted_proxies), port=request.port)
            renewed = [self._renewed(layer) for layer in request.layers]
            valid = [
                (layer.hex, layer.chunks)
                for layer, capability in zip(request.layers, renewed, strict=True)
                if capability is not None
            ]
            interval = self._coordinator.announce_seeds(request.node, peer, valid)
        except SwarmMessageInvalid as invalid:
            return _invalid(invalid)
        except Unavailable as failed:
            return _unavailable(failed)
        return _json(SeedsAnswer(again=interval, capabilities=renewed))

    def _renewed(self, layer: Seed) -> str | None:
        try:
            return self._renew(layer.capability, layer.hex)
        except CapabilityInvalid:
            return None

    def _renew(self, capability: str, hex_digits: str) -> str:
        """Return a new capability for a valid one. Raises CapabilityInvalid or InvalidName."""
        digest, now = Digest(hex_digits), self._clock()
        granted = verify(self._secret, capability, digest, now)
        return mint(self._secret, digest, granted.scope, int(now) + self._lifetime)


def peer_address(environ: Mapping[str, Any], trusted_proxies: Networks) -> str:
    """Return the address of the node that called. Raises SwarmMessageInvalid."""
    try:
        return str(caller_address(environ, trusted_proxies))
    except ValueError:
        raise SwarmMessageInvalid("the node's address is not an IP address") from None


def _json(message: Message) -> bottle.HTTPResponse:
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return bottle.HTTPResponse(message.encode(), 200, headers)


def _invalid(invalid: SwarmMessageInvalid) -> bottle.HTTPResponse:
    return error(400, "SWARM_INVALID", "invalid swarm message", detail=invalid.why)


def _unavailable(failed: Unavailable) -> bottle.HTTPResponse:
    log.warning("swarm call failed reason=%s", failed)
    return unavailable("the swarm service does not answer")


def install(app: bottle.Bottle, swarm: SwarmHandler) -> None:
    """Add the routes of this module."""
    app.route("/v0/swarm", "POST", swarm.announce_seeds, name="swarm_seeds")
    app.route("/v0/swarm/<rest:re:.+>", "POST", swarm.call, name="swarm")
