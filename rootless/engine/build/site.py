"""What all steps of one build share: the plan, the store, the sources, the cache, the network."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rootless import config
from rootless.frozen import as_data
from rootless.engine.build import keys
from rootless.engine.build.cache import Cache
from rootless.engine.build.carried.imports import Imports
from rootless.engine.build.steps import CopyStep, RunStep, State, WorkdirStep
from rootless.image.layer import owners

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from rootless.engine.build.carried import bringer
    from rootless.engine.build.context import Context
    from rootless.engine.build.network import Client
    from rootless.engine.build.outputs import Output
    from rootless.engine.build.request import BuildRequest
    from rootless.engine.build.steps import Base, Origin, Plan, Result, Stage, Step
    from rootless.linux.idmap import IdMap
    from rootless.runtime.cgroup.base import Cgroup


class Site:
    """What all steps of one build share.

    Attributes:
        plan, request: what is to be built, and how that was asked for.
        settings: the options of `run` that hold for each RUN.
        root: of the store. idmap: of the namespaces.
        staging: the directory of a `Staging`. scratch: beneath it, for the steps.
        contexts: by name; "" is the main one, if there is one.
        cache: of the steps. imports: caches of --cache-from.
        network: where a RUN asks for the network of the build.
        bringer: where a step asks for layers that are not in the store.
        newest: the latest time in a new layer, in seconds since 1970; None: any.
        proxies: NAME=VALUE for each RUN.
        secrets, agents: by id, the value of a secret and the socket of an agent.
        trees: outputs that are made of the tree of the target. takes_image: whether there are
            others.
        cgroup: of all RUNs, where limits are asked for.
        may_have_grown: something may be new in the cache; known once all steps are done.
    """

    def __init__(
        self,
        plan: Plan,
        request: BuildRequest,
        root: str,
        staging: str,
        idmap: IdMap,
        contexts: Mapping[str, Context],
    ) -> None:
        self.plan = plan
        self.request = request
        self.settings = request.run_settings()
        self.root = root
        self.staging = staging
        self.scratch = staging
        self.idmap = idmap
        self.contexts = contexts
        self.network: Client
        self.bringer: bringer.Client
        self.newest: int | None = None
        self.proxies = request.proxies()
        self.secrets: dict[str, bytes] = {}
        self.agents: dict[str, str] = {}
        self.trees: tuple[Output, ...] = ()
        self.takes_image = True
        self.use(Imports(root, idmap))
        self.cgroup: Cgroup | None = None
        self._owners: dict[str, owners.Below] = {}
        self.may_have_grown = True

    def use(self, imports: Imports) -> None:
        """Look for results in other caches, too."""
        self.imports = imports
        self.cache = Cache(self.root, self.idmap.key, imports.entries, imports.can_bring)

    def require(self, chain: Sequence[str], waiting: Callable[[], object]) -> None:
        """Have the layers of a tree brought, if some are not there.

        Args:
            waiting: called before that.

        Raises:
            RlessError: one cannot be had.
        """
        if None in map(self.cache.layer, chain):
            waiting()
            self.bringer.bring([(link, "") for link in chain])

    @property
    def jobs(self) -> int:
        """Return how many step processes are at work at a time: as many as there are CPUs for us.

        On a node of a cluster these are fewer than the machine has.
        """
        return self.request.jobs or len(os.sched_getaffinity(0))

    @property
    def driver(self) -> str | None:
        """Return the only driver that mounts trees, of the configuration; None: the first that works."""
        found: str | None = config.get("storage", "driver")
        return found

    @property
    def hostname(self) -> str:
        """Return the host name of each RUN; "": the usual one."""
        return self.request.build_args.get("BUILDKIT_SANDBOX_HOSTNAME", "")

    @property
    def cache_namespace(self) -> str:
        """Return what sets the cache mounts of this build apart; "": nothing."""
        return self.request.build_args.get("BUILDKIT_CACHE_MOUNT_NS", "")

    def ignores_cache(self, stage: Stage) -> bool:
        """Tell whether the results of earlier builds are not looked for (--no-cache)."""
        return self.request.no_cache or stage.name in self.request.no_cache_filter

    def owners_in(self, chain: Sequence[str]) -> owners.Below | None:
        """Return the owners in a tree of layers, where they are kept as data; None: they are not.

        Raises:
            RlessError: the record of a layer is damaged.
        """
        return owners.below(self.root, chain, self._owners) if self.idmap.single else None

    def state_of_base(self, base: Base) -> State:
        """Return the state that a stage begins with."""
        config = base.config.get("config") or {}
        return State(self.of_times(keys.base(base.chain, config, base.platform)), base.chain)

    def of_times(self, key: str) -> str:
        """Return the key of the same with the times that this build allows: such layers differ."""
        return key if self.newest is None else keys.after(key, f"no time after {self.newest}")

    def early_key(
        self, step: Step, before: State, results: Sequence[Result | None]
    ) -> str | None:
        """Return a key of the state after a step, where no file has to be looked at for it.

        Args:
            results: of the stages that the step takes files from, at least.
        """
        if isinstance(step, RunStep):
            bound = [one for one in enumerate(step.mounts) if one[1].type == "bind"]
            origins = [step.origins[index] for index, _ in bound]
        elif isinstance(step, CopyStep):
            origins = [step.origin]
        elif isinstance(step, WorkdirStep):
            return keys.workdir(before.key, step.directory, step.user)
        else:
            return None
        if any(origin.kind == "context" for origin in origins):
            return None
        if not origins:
            return self.run_key(step, before, ()) if isinstance(step, RunStep) else None
        tops = [self._top(origin, results) for origin in origins]
        if isinstance(step, RunStep):
            return keys.defined(before.key, tops, {"run": self.run_key(step, before, tops)})
        return keys.defined(before.key, tops, _described(step))

    def _top(self, origin: Origin, results: Sequence[Result | None]) -> str:
        if origin.kind == "stage":
            result = results[origin.stage]
            assert result is not None
            return result.top
        chain = self.plan.images[origin.name].chain
        return chain[-1] if chain else ""

    def run_key(self, step: RunStep, before: State, digests: Sequence[str]) -> str:
        """Return the key of the state after a RUN.

        Args:
            digests: of the content of its bind mounts, in their order.
        """
        left = iter(digests)
        mounts = []
        for mount in step.mounts:
            facts = as_data(mount) | {"given": sorted(mount.given)}
            if mount.type == "bind":
                facts["digest"] = next(left)
            elif mount.type == "cache" and self.cache_namespace:
                facts["namespace"] = self.cache_namespace
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
            devices=[
                *(device.container for device in self.settings.devices),
                *self.settings.cdi,
                *(f"{one.name},required" if one.required else one.name for one in step.devices),
            ],
            hosts=[f"{name}:{address}" for name, address in self.settings.add_host],
            hostname=self.hostname,
        )


def _described(step: CopyStep) -> dict[str, Any]:
    """Return all of a COPY that changes what it gives, but for what its files are."""
    facts: dict[str, Any] = as_data(step)
    for name in ("number", "text", "created_by", "line", "end_line", "origin"):
        del facts[name]
    facts["files"] = [[name, content.hex()] for name, content in step.files]
    return facts
