"""What a step process does: it looks for its step in the cache, else does it and keeps the layer.

It is a copy of the builder, root in the namespaces of the build, with a mount namespace of its own.
So a mount that is still there at its end is nobody else's, and goes with it. After a step that has
left nothing open it does the next one of its stage.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from rootless import rootfs
from rootless.engine.build import copy, keys, outputs, sources
from rootless.engine.build.hashes import Hashes, path_for
from rootless.engine.build.messages import Receiver, sender
from rootless.engine.build.steps import CopyStep, Result, RunStep, State, WorkdirStep
from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.model.digest import chain_id
from rootless.image.store import records
from rootless.image.store.build_cache import Entry
from rootless.image.store.store import layer_dir
from rootless.linux import mount, ns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import NoReturn

    from rootless.dockerfile.ignore import IgnoreRules
    from rootless.engine.build.messages import Say
    from rootless.engine.build.remote.added import Added
    from rootless.engine.build.site import Site
    from rootless.engine.build.steps import Origin, Stage, Step
    from rootless.image.layer.create import Unsealed
    from rootless.image.layer.later import Sealing
    from rootless.image.layer.owners import Owners
    from rootless.rootfs import Mounted

    Done = tuple[State, float, bool, list[str]]

# In place of a chain id, until the next step of the process is done: the digest is not known yet.
UNSEALED = "unsealed"
_AT_ONCE = 16 << 20  # bytes: to make their digest takes no longer than to begin a process


def load() -> None:
    """Load what a step needs only if it is not cached; once, in the process that forks them."""
    import zstandard  # noqa: F401

    import rootless.engine.build.new_layer
    import rootless.engine.build.owners
    import rootless.engine.build.run
    import rootless.image.layer.create
    import rootless.image.layer.later
    import rootless.rootfs.stored
    import rootless.runtime.seccomp.default  # noqa: F401

    gc.freeze()  # a collection in a step would copy every page of ours


class Task(NamedTuple):
    """What a step process is to do.

    Attributes:
        step: index of the step in its stage. number: of the step in the build.
        before: what it starts from.
        chains: of the stages that it takes files from, the chain ids of their layers.
        is_last: this process does no step of the stage after it.
    """

    step: int
    number: int
    before: State
    chains: Mapping[int, Sequence[str]]
    is_last: bool

    def data(self) -> dict[str, Any]:
        """Return it for a message."""
        return {"step": self.step, "number": self.number, "key": self.before.key,
                "chain": self.before.chain, "chains": [*self.chains.items()],
                "is_last": self.is_last}  # fmt: skip

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Task:
        """Return it from a message."""
        before = State(data["key"], tuple(data["chain"]))
        chains = dict(data["chains"])
        return cls(data["step"], data["number"], before, chains, data["is_last"])


def run(site: Site, stage: Stage, tasks: int, writer: int) -> NoReturn:
    """Do steps of a stage in this process, as they come, and end.

    Args:
        tasks: gives the tasks (`Task`), a line of JSON each; a step is over before the next.
        writer: gets the messages, in the same form.
    """
    say = sender(writer)
    try:
        ns.unshare(ns.CLONE_NEWNS)
        mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
        os.umask(0)
        receiver = Receiver(tasks)
        goes_on = True
        sealings: list[Sealing] = []
        try:
            while goes_on and not receiver.ended:
                for data in receiver.read():
                    goes_on = _do(site, stage, Task.read(data), sealings, say)
        finally:
            with contextlib.suppress(RlessError):  # what was done before a failed step is kept
                for sealing in sealings:
                    sealing.result()
    except RlessError as error:
        say({"kind": "failed", "message": error.message, "hint": error.hint,
             "exit_code": error.exit_code})  # fmt: skip
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        say({"kind": "failed", "message": f"{name}{error.strerror}", "hint": None, "exit_code": 1})
    except BaseException as error:
        what = f"internal error: {type(error).__name__}: {error}"
        say({"kind": "failed", "message": what, "hint": None, "exit_code": 1})
    os._exit(0)


def _do(site: Site, stage: Stage, task: Task, sealings: list[Sealing], say: Say) -> bool:
    """Do one step, and say its result; return whether this process may do another.

    Args:
        sealings: of the layer of the step before, and then of this one, if that goes on.
    """
    results: list[Result | None] = [None] * len(site.plan.stages)
    for index, chain in task.chains.items():
        results[index] = Result(State("", tuple(chain)))
    scratch = f"{site.scratch}/{task.number}"
    os.mkdir(scratch, 0o700)
    process = _StepProcess(site, stage, task.before, results, scratch, say, sealings)
    process.is_last = task.is_last
    after, created, cached, found = process.do(stage.steps[task.step])
    goes_on = process.leave()
    say({"kind": "result", "key": after.key, "chain": after.chain, "created": created,
         "cached": cached, "keys": found, "goes_on": goes_on})  # fmt: skip
    return goes_on


def export(site: Site, results: Sequence[Result]) -> None:
    """Write the outputs that are made of the files of the targets (`-o DIR`, `-o -`).

    Where it runs: in the builder, once all steps are done.
    """
    if not site.trees:
        return
    scratch = f"{site.scratch}/export"
    os.mkdir(scratch, 0o700)
    trees = []
    for number, target in enumerate(site.plan.targets):
        state = results[target.index].state
        process = _StepProcess(site, target, state, [], scratch, lambda _: None)
        root_fd = _open(process.mount_tree(state.chain, f"tree{number}").path)
        name = target.platform.replace("/", "_") if site.request.makes_index else ""
        trees.append(outputs.Tree(root_fd, name, site.owners_in(state.chain)))
    for output in site.trees:
        outputs.export_trees(output, trees, 1, site.request.epoch())


def squash(site: Site, stage: Stage, results: Sequence[Result]) -> Result:
    """Make one layer of all that a target has above its base image; return what it comes to.

    Where it runs: in the builder, once all steps are done.
    """
    from rootless.image.layer.archiver import Archiver
    from rootless.image.layer.changes import changes
    from rootless.image.layer.tar_writer import TarWriter
    from rootless.rootfs.stored import Part

    result = results[stage.index]
    base = site.plan.base_of(stage).chain
    new = result.state.chain[len(base) :]
    if len(new) < 2:
        return result
    key, cache = keys.after(result.state.key, "squash"), site.cache
    scratch = f"{site.scratch}/squash{stage.index}"
    os.mkdir(scratch, 0o700)
    before = State(result.state.key, base)
    process = _StepProcess(site, stage, before, [], scratch, lambda _: None)
    with cache.lock(key):
        found = None if site.ignores_cache(stage) else cache.find(key, base)
        if found is not None:
            site.require(found.chain, lambda: None)
            return Result(State(key, found.chain), {0: found.created}, (key,))
        lowers = process.lowers(result.state.chain)
        part = Part(b"", process.mount_tree(result.state.chain, "tree").path, lowers[: len(base)],
                    whole=True)  # fmt: skip
        part.touched = lowers[len(base) :]

        def write(out: int) -> None:
            writer = TarWriter(out)
            Archiver(writer).changes(changes(part, ()))
            writer.end()

        meta = process.make_layer(write)
        chain, created = (*base, meta["chain"]), time.time()
        cache.store(
            key, chain, diff_ids=[meta["diff_id"]], sizes=[meta["size"]], created=created,
            text="squash",
        )  # fmt: skip
    return Result(State(key, chain), {0: created}, (key,))


class _StepProcess:
    def __init__(
        self,
        site: Site,
        stage: Stage,
        before: State,
        results: Sequence[Result | None],
        scratch: str,
        say: Say,
        sealings: list[Sealing] | None = None,
    ) -> None:
        self.site = site
        self.stage = stage
        self.before = before
        self.results = results
        self.scratch = scratch
        self.say = say
        self.is_last = True
        self._sealings = [] if sealings is None else sealings
        self._goes_on = True
        self._mounted: list[Mounted] = []
        self._fds: list[int] = []
        self._before_fd = -1

    def leave(self) -> bool:
        """Give back what the step has opened; return whether the process is as before then."""
        if self._goes_on:
            for fd in self._fds:
                os.close(fd)
            for mounted in self._mounted:
                rootfs.unmount(mounted)
        return self._goes_on

    def do(self, step: Step) -> Done:
        """Return the state after the step, when it was made, and whether the cache had it.

        Last come the keys of its entries in the cache.
        """
        if isinstance(step, CopyStep):
            return self._copy(step)
        if isinstance(step, WorkdirStep):
            return self._make_directory(step)
        assert isinstance(step, RunStep)
        return self._run(step)

    def _find_or_make(
        self,
        step: Step,
        key: str,
        make: Callable[[], dict[str, Any] | Unsealed],
        *,
        layer_key: str = "",
    ) -> Done:
        """Take a result from the cache, or make it while no other build does.

        Args:
            key: of the state after the step.
            layer_key: of its layer, where that does not depend on the layers below; "": it does.
        """
        cache = self.site.cache
        early = self.site.early_key(step, self.before, self.results) or ""
        known = [key, layer_key] if layer_key else [key]
        if early == key:
            early = ""
        with cache.lock(layer_key or key, self._wait) as held:
            created, cached, meta = time.time(), False, None
            if not self.site.ignores_cache(self.stage) and any(map(cache.has, known)):
                self._settle()
                found = cache.find(key, self.before.chain)
                if found is not None:
                    if early and (found.early != early or found.keys != tuple(known)):
                        self._keep(step, known, early, found)
                    return State(key, found.chain), found.created, True, known[:1]
                original = cache.find_layer(layer_key) if layer_key else None
                if original is not None:
                    meta = self._repeat(original)
                    created, cached = original.created, meta is not None
            made = make() if meta is None else meta
            before = self.before.chain

            def keep(meta: dict[str, Any]) -> None:
                chain, sizes = (*before, meta["chain"]), [meta["size"]]
                diff_ids, key = [meta["diff_id"]], self.site.idmap.key
                entry = Entry(chain, key, diff_ids=diff_ids, sizes=sizes, created=created)
                self._keep(step, known, early, entry)
                held.release()

            if isinstance(made, dict):
                keep(made)
                chain = made["chain"]
            else:
                from rootless.image.layer.later import Sealing

                below = before[-1] if before else None
                self._sealings.append(Sealing(made, below, step.text, keep))
                held.is_passed_on = True
                chain = UNSEALED
            return State(key, (*before, chain)), created, cached, known[:1]

    def _settle(self) -> None:
        """Wait for the layer of the step before, whose chain id is wanted.

        Raises:
            RlessError: it could not be made.
        """
        while self._sealings:
            top = self._sealings.pop().result()
            self.before = State(self.before.key, (*self.before.chain[:-1], top))

    def _keep(self, step: Step, known: Sequence[str], early: str, made: Entry) -> None:
        """Keep the result of a step by all its keys."""
        for key in (*known, early) if early else known:
            self.site.cache.store(
                key,
                made.chain,
                diff_ids=made.diff_ids,
                sizes=made.sizes,
                created=made.created,
                text=step.text,
                keys=known,
                early=early,
            )

    def _repeat(self, original: Entry) -> dict[str, Any] | None:
        """Put the layer of an entry on top of the layers here; None: it is gone."""
        from rootless.image.layer import create
        from rootless.image.layer.layers import is_complete

        self._goes_on = False  # as in `make_layer`
        site, chain, below = self.site, original.chain[-1], self.before.chain
        diff_id = original.diff_ids[-1] if original.diff_ids else ""
        if not is_complete(site.root, site.idmap.key, chain):
            if diff_id not in site.imports.blobs:
                return None
            made = chain_id(below[-1] if below else None, diff_id)
            self._fetch()
            site.bringer.bring([*((link, "") for link in below), (made, diff_id)])
            return records.read_meta(site.root, site.idmap.key, made)
        return create.repeat(
            site.root,
            site.idmap,
            below[-1] if below else None,
            self.lowers(below),
            chain,
            self._workspace("repeated"),
        )

    def _wait(self) -> None:
        self.say({"kind": "wait", "why": "another build is doing this step"})

    # -- trees -------------------------------------------------------------------------------

    def lowers(self, chain: Sequence[str]) -> list[str]:
        """Return the directories of layers; those that are not there yet are brought."""
        if chain[-1:] == (UNSEALED,):
            return [*self.lowers(chain[:-1]), self._sealings[0].directory]
        self.site.require(chain, self._fetch)
        return [layer_dir(self.site.root, self.site.idmap.key, link) for link in chain]

    def _fetch(self) -> None:
        self.say({"kind": "wait", "why": "its layers are fetched"})

    def mount_tree(self, chain: Sequence[str], name: str) -> Mounted:
        """Mount the tree of some layers, writable, in a workspace of this step."""
        workspace = f"{self.scratch}/{name}"
        os.mkdir(workspace, 0o700)
        from rootless.image.layer.layers import whiteouts_of

        lowers = self.lowers(chain)
        sealed = (link for link in chain if link != UNSEALED)
        form = whiteouts_of(filter(None, map(self.site.cache.layer, sealed)))
        site = self.site
        made = rootfs.mount(
            lowers, workspace, site.idmap, driver=site.driver, volatile=True, whiteouts=form
        )
        self._mounted.append(made)
        return made

    def _open_tree(self, chain: Sequence[str], name: str) -> int:
        """Mount the tree of some layers, and return the descriptor of its root."""
        fd = _open(self.mount_tree(chain, name).path)
        self._fds.append(fd)
        return fd

    def open_origin(self, origin: Origin, name: str) -> int:
        """Return the descriptor of the directory that files are taken from.

        Args:
            name: of the workspace where a tree has to be mounted.
        """
        if origin.kind == "context":
            return self.site.contexts[origin.name].fd
        return self._open_tree(self._chain_of(origin), name)

    def _chain_of(self, origin: Origin) -> Sequence[str]:
        if origin.kind != "stage":
            return self.site.plan.images[origin.name].chain
        result = self.results[origin.stage]
        assert result is not None
        return result.state.chain

    def _find_ignored(self, origin: Origin) -> IgnoreRules | None:
        """Return what .dockerignore leaves out of an origin."""
        return self.site.contexts[origin.name].ignore if origin.kind == "context" else None

    # -- COPY, ADD and WORKDIR ---------------------------------------------------------------

    def _copy(self, step: CopyStep) -> Done:
        root_fd = self.open_origin(step.origin, "from")
        self._goes_on = not step.add  # what was fetched may be open
        added = self._added(step) if step.add else None
        selection = sources.select(root_fd, step, self._find_ignored(step.origin), added)
        if step.origin.kind != "context":
            selection.below = self.site.owners_in(self._chain_of(step.origin))
        plan = copy.Copy(step, selection, self._open_before)
        options = {"parents": step.parents, "unpack": step.unpack,
                   "keep_git_dir": step.keep_git_dir, "add": step.add}  # fmt: skip
        if step.like_cp:
            options["like_cp"] = True
        key = keys.copy(
            self.before.key,
            destination=step.destination,
            digest=selection.digest(self._hashes(step.origin)),
            owner=plan.owner,
            mode=step.mode,
            link=step.link,
            options=options,
        )
        for text in selection.warnings:
            self.say({"kind": "warning", "text": text})

        def make() -> dict[str, Any]:
            selection.fetch()
            plan.prepare()
            return self.make_layer(plan.write)

        layer_key = ""
        if step.link:
            layer_key = self.site.of_times(key)
            key = keys.after(self.before.key, layer_key)
        return self._find_or_make(step, key, make, layer_key=layer_key)

    def _added(self, step: CopyStep) -> Added:
        """Return what fetches the sources of an ADD that are elsewhere."""
        from rootless.engine.build.remote.added import Added

        return Added(
            step,
            f"{self.scratch}/added",
            self.site.root,
            self.site.secrets,
            self.say,
            agent=self.site.agents.get("default", ""),
            network=self.site.settings.network or "",
            asks=not self.site.ignores_cache(self.stage),
        )

    def _open_before(self) -> int:
        """Return the root of the tree before the step, which is mounted when it is wanted."""
        if self._before_fd < 0:
            self._before_fd = self._open_tree(self.before.chain, "before")
        return self._before_fd

    def _hashes(self, origin: Origin) -> Hashes | None:
        """Return the digests of files that are known; only those of the caller's files can be."""
        if origin.kind != "context" or self.site.contexts[origin.name].is_fetched:
            return None
        return Hashes(path_for(self.site.root, self.site.contexts[origin.name].fd))

    def _make_directory(self, step: WorkdirStep) -> Done:
        write = copy.workdir_writer(step, self._open_before())
        key = keys.workdir(self.before.key, step.directory, step.user)
        if write is None:
            self._settle()
            # The next build need not look, nor fetch the layers for that
            self.site.cache.store(key, self.before.chain, text=step.text)
            return self.before, 0.0, not self.site.ignores_cache(self.stage), [key]
        return self._find_or_make(step, key, lambda: self.make_layer(write))

    def make_layer(self, write: Callable[[int], None]) -> dict[str, Any]:
        """Make the layer of the step; return its meta record."""
        from rootless.image.layer import create

        self._goes_on = False  # the directories of the layers stay open
        self._settle()
        before = self.before.chain
        return create.make_here(
            self.site.root,
            self.site.idmap,
            before[-1] if before else None,
            self.lowers(before),
            write,
            self._workspace("layer"),
            newest=self.site.newest,
        )

    def _workspace(self, name: str) -> str:
        path = f"{self.scratch}/{name}"
        os.mkdir(path, 0o700)
        return path

    # -- RUN ---------------------------------------------------------------------------------

    def _run(self, step: RunStep) -> Done:
        # A bind's mounts stay, and what is secret goes with the namespace (security class 57).
        self._goes_on = all(
            one.type in ("cache", "tmpfs") and not one.origin for one in step.mounts
        )
        key = self.site.run_key(step, self.before, self._digests(step))
        return self._find_or_make(step, key, lambda: self._run_and_keep(step))

    def _digests(self, step: RunStep) -> tuple[str, ...]:
        """Return the digests of what is bound, in the order of the mounts."""
        found = []
        for index, one in enumerate(step.mounts):
            if one.type == "bind":
                origin = step.origins[index]
                root_fd = self.open_origin(origin, f"key{index}")
                selection = sources.select_tree(
                    root_fd, one.source, self._find_ignored(origin)
                )
                found.append(selection.digest(self._hashes(origin)))
        return tuple(found)

    def _run_and_keep(self, step: RunStep) -> dict[str, Any] | Unsealed:
        from rootless.engine.build import run as run_step
        from rootless.image.layer import create
        from rootless.rootfs import stored

        site = self.site
        mounted = self.mount_tree(self.before.chain, "root")
        environment = run_step.StepEnvironment(
            site.idmap,
            mounted,
            self._workspace("files"),
            f"{site.root}/seccomp",
            site.settings,
            site.network,
            common=f"{site.scratch}/stage{self.stage.index}",
            proxies=site.proxies,
            hostname=site.hostname or run_step.HOSTNAME,
            allowed=frozenset(site.request.allow),
            cgroup=site.cgroup,
            open_origin=self.open_origin,
            find_ignored=self._find_ignored,
            secrets=site.secrets,
            agents=site.agents,
            root=site.root,
            emptied=site.scratch if site.ignores_cache(self.stage) else "",
            cache_namespace=site.cache_namespace,
            timeout=site.request.timeout,
        )
        code = run_step.execute(step, environment, self.say)
        if code:
            raise run_step.failure(step, code)
        self._settle()
        before = self.before.chain
        lowers = self.lowers(before)
        later = self._goes_on and not self.is_last and not site.idmap.single
        (part,) = stored.parts(f"{self.scratch}/root", lowers)
        return create.adopt(
            site.root,
            site.idmap,
            before[-1] if before else None,
            lowers,
            part,
            self._workspace("layer"),
            newest=site.newest,
            owner=self._owner(marked=mounted.driver == "overlay"),
            most=_AT_ONCE if later else limits.LAYER_BYTES,
        )

    def _owner(self, *, marked: bool) -> Owners | None:
        """Return who tells the owners of what a RUN has written; None: the files have them."""
        from rootless.image.layer import owners

        found = self.site.owners_in(self.before.chain)
        return None if found is None else owners.Owners(found, marked=marked)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
