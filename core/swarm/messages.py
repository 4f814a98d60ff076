"""The messages of swarm calls between nodes and the service: strict, bounded JSON.

`POST /v0/swarm/<capability>/<hex>` takes a SwarmRequest and answers a SwarmAnswer: a node takes part in
the swarm of one layer. `POST /v0/swarm` takes a SeedsRequest and answers a SeedsAnswer: a node announces
layers that it has completely.
"""

from __future__ import annotations

from functools import cached_property
from ipaddress import ip_address
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import SwarmMessageInvalid
from core.swarm.bitmap import Bitmap
from core.swarm.chunks import MAX_CHUNKS

MAX_REQUEST = 64 * 1024
"""Bytes of a request's body."""
MAX_ANSWER = 64 * 1024
"""Bytes of an answer's body."""
MAX_PEERS = 50
MAX_OPENED = 25
"""A node opens connections in a swarm while it has fewer than these, and accepts as many more. If each opened
50, the first 51 nodes would be connected only to each other, and the others would get nothing from them."""
MAX_LEASES = 64
MAX_FETCHED = 1024
MAX_SEEDS = 100
"""Layers in one SeedsRequest: with the longest capabilities they are below MAX_REQUEST."""
SEEDS_INTERVAL = 600.0
"""Seconds between two SeedsRequests of one node, unless the service answers a longer time."""
_MAX_WAIT = 86_400.0


def _address(text: str) -> str:
    return str(ip_address(text))


Port = Annotated[int, Field(ge=1, le=65_535)]
Chunk = Annotated[int, Field(ge=0, lt=MAX_CHUNKS)]
Seconds = Annotated[float, Field(gt=0, le=_MAX_WAIT)]
Capability = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,512}$")]
NodeId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Address = Annotated[str, Field(max_length=64), AfterValidator(_address)]


class Message(BaseModel):
    """A message. Fields that the receiver does not know are ignored, so either side may be newer."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True
    )

    def encode(self) -> bytes:
        """Return the message as JSON."""
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Parse a message. Raises SwarmMessageInvalid if it is too long, not JSON, or invalid."""
        if len(body) > max(MAX_REQUEST, MAX_ANSWER):
            raise SwarmMessageInvalid(f"{len(body)} bytes, more than {max(MAX_REQUEST, MAX_ANSWER)}")
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SwarmMessageInvalid(f"{where}: {first['msg']}" if where else first["msg"]) from None


class SwarmRequest(Message):
    """A node that takes part in the swarm of a layer."""

    node: NodeId
    """Distinguishes nodes that share an address: random, chosen when the mirror starts, unknown to peers."""
    port: Port
    """The port at which the node accepts peers. Its address is that of the connection."""
    chunks: Annotated[int, Field(ge=1, le=MAX_CHUNKS)]
    """The number of chunks of the layer (core/swarm/chunks.py)."""
    held: Annotated[str, Field(max_length=(MAX_CHUNKS // 8 + 2) // 3 * 4)]
    """The chunks that the node or a peer connected to it has, base64 of a Bitmap (core/swarm/bitmap.py)."""
    fetched: Annotated[list[Chunk], Field(max_length=MAX_FETCHED)] = []
    """The chunks that the node fetched from the origin since its last call."""
    complete: bool = False
    """Whether the node itself has the whole layer."""
    stopped: bool = False
    """Whether the node leaves the swarm: its leases end, and it is no longer listed as a peer."""
    want: Annotated[int, Field(ge=0, le=MAX_LEASES)] = 16
    """How many leases, including current ones, the node can use. 0: it requests only peers."""
    unspread: Annotated[int, Field(ge=0, le=MAX_CHUNKS)] = 0
    """How many chunks the node fetched from the origin that no peer connected to it has yet."""
    peers: Annotated[int, Field(ge=0, le=MAX_PEERS)] = MAX_PEERS
    """How many peers the answer may list."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        Bitmap.from_base64(self.chunks, self.held)
        if any(chunk >= self.chunks for chunk in self.fetched):
            raise ValueError(f"a fetched chunk is beyond the last of {self.chunks}")
        return self

    @cached_property
    def held_chunks(self) -> Bitmap:
        """`held`, decoded."""
        return Bitmap.from_base64(self.chunks, self.held)


class Lease(Message):
    """A lease of a chunk, which the node is to fetch from the origin on behalf of the swarm."""

    chunk: Chunk
    seconds: Seconds
    """Its duration, from the answer on."""


class Peer(Message):
    """A node of the swarm, as others connect to it."""

    ip: Address
    port: Port


class SwarmAnswer(Message):
    """The answer to a SwarmRequest."""

    peers: Annotated[list[Peer], Field(max_length=MAX_PEERS)]
    leases: Annotated[list[Lease], Field(max_length=MAX_LEASES)]
    """All current leases of the node, including new ones. A lease that is missing here was revoked."""
    again: Seconds
    """When to call again, in seconds. A node calls earlier only if it fetched leased chunks, or leaves."""
    capability: Capability
    """The capability for the next call and for the web seed."""


class Seed(Message):
    """A layer that a node has completely."""

    capability: Capability
    hex: Hex
    chunks: Annotated[int, Field(ge=1, le=MAX_CHUNKS)]


class SeedsRequest(Message):
    """A node announces its complete layers, the most recently used ones."""

    node: NodeId
    port: Port
    layers: Annotated[list[Seed], Field(max_length=MAX_SEEDS)]


class SeedsAnswer(Message):
    """The answer to a SeedsRequest."""

    again: Seconds
    capabilities: Annotated[list[Capability | None], Field(max_length=MAX_SEEDS)]
    """A renewed capability for each layer, in the request's order; null where it was not valid."""
