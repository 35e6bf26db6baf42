"""What all steps of one build share: the plan, the store, the sources, the cache, the network."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from rootless.engine.build import keys
from rootless.engine.build.cache import Cache
from rootless.engine.build.steps import RunStep, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rootless.engine.build.context import Context
    from rootless.engine.build.network import Client
    from rootless.engine.build.outputs import Output
    from rootless.engine.build.request import BuildRequest
    from rootless.engine.build.steps import Base, Plan, Stage, Step
    from rootless.linux.idmap import IdMap
    from rootless.runtime.cgroup.base import Cgroup


class Site:
    """What all steps of one build share.

    Attributes:
        plan, request: what is to be built, and how that was asked for.
        settings: the options of `run` that hold for each RUN.
        root: of the store. scratch: the directory of a `Staging`. idmap: of the namespaces.
        contexts: by name; "" is the main one, if there is one.
        cache: of the steps.
        network: where a RUN asks for the network of the build.
        newest: the latest time in a new layer, in seconds since 1970; None: any.
        proxies: NAME=VALUE for each RUN.
        secrets, agents: by id, the value of a secret and the socket of an agent.
        trees: outputs that are made of the tree of the target.
        cgroup: of all RUNs, where limits are asked for.
        jobs: how many step processes are at work at a time.
    """

    def __init__(
        self,
        plan: Plan,
        request: BuildRequest,
        root: str,
        scratch: str,
        idmap: IdMap,
        contexts: Mapping[str, Context],
        network: Client,
    ) -> None:
        self.plan = plan
        self.request = request
        self.settings = request.run_settings()
        self.root = root
        self.scratch = scratch
        self.idmap = idmap
        self.contexts = contexts
        self.cache = Cache(root, idmap.key)
        self.network = network
        self.newest: int | None = None
        self.proxies = request.proxies()
        self.secrets: dict[str, bytes] = {}
        self.agents: dict[str, str] = {}
        self.trees: tuple[Output, ...] = ()
        self.cgroup: Cgroup | None = None
        self.jobs = os.cpu_count() or 1

    @property
    def hostname(self) -> str:
        """Return the host name of each RUN; "": the usual one."""
        return self.request.build_args.get("BUILDKIT_SANDBOX_HOSTNAME", "")

    def ignores_cache(self, stage: Stage) -> bool:
        """Tell whether the results of earlier builds are not looked for (--no-cache)."""
        return self.request.no_cache or stage.name in self.request.no_cache_filter

    def state_of_base(self, base: Base) -> State:
        """Return the state that a stage begins with."""
        config = base.config.get("config") or {}
        key = keys.base(base.chain, config, base.platform)
        if self.newest is not None:
            key = keys.after(key, f"no time after {self.newest}")  # such layers differ
        return State(key, base.chain)

    def early_key(self, step: Step, before: State) -> str | None:
        """Return the key of the state after a step, where no file has to be looked at for it."""
        if not isinstance(step, RunStep) or any(mount.type == "bind" for mount in step.mounts):
            return None
        return self.run_key(step, before, ())

    def run_key(self, step: RunStep, before: State, digests: tuple[str, ...]) -> str:
        """Return the key of the state after a RUN.

        Args:
            digests: of the content of its bind mounts, in their order.
        """
        left = iter(digests)
        mounts = []
        for mount in step.mounts:
            facts = dataclasses.asdict(mount) | {"given": sorted(mount.given)}
            if mount.type == "bind":
                facts["digest"] = next(left)
            mounts.append(facts)
        return keys.run(
            before.key,
            args=step.args,
            env=step.env,
            # Proxies of the command line come beside it: what it has, ARG or ENV declares.
            declared=[entry.partition("=")[0] for entry in step.env],
            user=step.user,
            directory=step.directory,
            script=step.script,
            mounts=mounts,
            network=step.network if step.network != "default" else self.settings.network or "",
            security=step.security,
            devices=step.devices,
            hosts=[f"{name}:{address}" for name, address in self.settings.add_host],
            hostname=self.hostname,
        )
