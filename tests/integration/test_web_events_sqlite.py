"""Events under load, and a brewer in another process that claims from the same SQLite file."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import requests

from sql.scopes import grant_role
from sql.transaction import transaction
from tests.notifications import DOCKER_LAYER, envelope, event
from tests.servers.process import bound_to_parent
from tests.servers.waiting import comes_true
from tests.web_events import SECRET
from tests.web_parts import rows
from tests.web_server import front_of, served

CLAIMS = 30
CLAIMER = """
import sys, time
from sql.claims import claim_layers
from sql.engine import create_engine_for
from sql.tables import build_tables
from sql.transaction import transaction

engine, tables, claimed = create_engine_for(url=sys.argv[1]), build_tables(), 0
while claimed < int(sys.argv[2]):
    with transaction(engine) as connection:
        claimed += len(claim_layers(connection, tables, now=int(time.time()), limit=1, brewer="test"))
"""


def test_events_under_load_do_not_starve_a_brewer_in_another_process(tmp_path: Path) -> None:
    settings = {"application": {"event_authorization": SECRET}}
    ended = threading.Event()
    refused: list[int] = []
    sent: set[str] = set()
    with front_of("127.0.0.1:1", tmp_path, settings=settings) as front, served(front) as netloc:
        with transaction(front.parts.engine) as connection:
            grant_role(connection, front.parts.tables, "library/*", now=1)

        def send(client: int) -> None:
            number = 0
            with requests.Session() as session:
                session.trust_env = False
                while not ended.is_set():
                    number += 1
                    digest = f"sha256:{client:032x}{number:032x}"
                    body = envelope(event(mediaType=DOCKER_LAYER, digest=digest))
                    url = f"http://{netloc}/v0/event"
                    answer = session.post(url, body, headers={"Authorization": SECRET}, timeout=60)
                    if answer.ok:
                        sent.add(digest)
                    else:
                        refused.append(answer.status_code)

        senders = [threading.Thread(target=send, args=(client,)) for client in range(8)]
        for sender in senders:
            sender.start()
        try:
            assert comes_true(lambda: len(sent) > 100)
            url = front.parts.engine.url.render_as_string()
            argv = bound_to_parent([sys.executable, "-c", CLAIMER, url, str(CLAIMS)])
            subprocess.run(argv, cwd=Path(__file__).parents[2], check=True, timeout=120)
        finally:
            ended.set()
            for sender in senders:
                sender.join()
        assert refused == []
        assert {digest for (digest,) in rows(front.parts, front.parts.tables.queue, "digest")} >= sent
