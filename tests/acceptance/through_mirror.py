"""Engines that `mirror configure` has pointed at the mirror of a registry."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.acceptance.engines import Containerd, Docker, Engine, Login, Podman, Skopeo
from tests.mirror_process import MirrorProcess
from tests.servers.dockerd import Dockerd


class ThroughMirror:
    """The engine `name`; docker and containerd need a `daemon`. It keeps its files, and the configuration that
    points it here, in `folder`.
    """

    def __init__(
        self, name: str, mirror: MirrorProcess, scope: str, folder: Path, daemon: Dockerd | None = None
    ) -> None:
        self._hosts = (mirror.registry, mirror.netloc)
        self._folder = folder
        self.engine: Engine
        # dockerd's old image store mirrors Docker Hub only: the mirror is named in the reference.
        host = mirror.netloc if name == "docker" else mirror.registry
        self.repository = f"{host}/{scope}"
        if name == "docker":
            assert daemon is not None
            self.engine = Docker(daemon, folder)
        elif name == "containerd":
            assert daemon is not None
            mirror.configure(name, folder)
            self.engine = Containerd(daemon, folder, hosts_dir=folder / "etc/containerd/certs.d")
        else:
            # With a registries.conf of the user's own the engine reads none of the machine's.
            (folder / "etc/containers").mkdir(parents=True)
            (folder / "etc/containers/registries.conf").write_text("unqualified-search-registries = []\n")
            (folder / ".config").symlink_to("etc")
            mirror.configure("podman", folder)
            self.engine = Skopeo(folder) if name == "skopeo" else Podman(folder)

    def pull(self, tag_or_digest: str, login: Login | None) -> str:
        """Pull, and return the digest recorded for `:tag` or `@digest`. Raises PullFailed."""
        if isinstance(self.engine, Skopeo | Podman):
            # Credentials of a pull are those of the registry: the mirror gets its own, or none.
            self._keep(login)
            login = None
        return self.engine.pull(self.repository + tag_or_digest, login)

    def _keep(self, login: Login | None) -> None:
        """Keep the login as `podman login` does, for the registry and for the mirror."""
        file = self._folder / "containers/auth.json"
        file.parent.mkdir(exist_ok=True)
        entry = {"auth": base64.b64encode(str(login).encode()).decode()}
        file.write_text(json.dumps({"auths": dict.fromkeys(self._hosts, entry) if login else {}}))
