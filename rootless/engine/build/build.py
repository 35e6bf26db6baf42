"""`build`, on the host: plan, bases, namespaces; then messages are shown, and the image recorded."""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, Any, NamedTuple

from rootless import jsontext, paths
from rootless.dockerfile import parse as parse_dockerfile
from rootless.dockerfile.scope import global_scope
from rootless.engine import idmap_policy
from rootless.engine.build import context, image, limits, outputs, plan, progress, step_process
from rootless.engine.build.builder import Builder
from rootless.engine.build.cache import trim
from rootless.engine.build.carried.bringer import Bringer
from rootless.engine.build.carried.session import Carried
from rootless.engine.build.messages import Receiver, sender
from rootless.engine.build.network import Network
from rootless.engine.build.remote.contexts import Opener, is_fetched
from rootless.engine.build.site import Site
from rootless.engine.build.steps import Base, Result, State
from rootless.engine.state import events
from rootless.errors import RlessError, escape
from rootless.frozen import replace
from rootless.image.model.platforms import host_platform, parse_platform
from rootless.image.model.reference import is_path, parse_name
from rootless.image.store import records
from rootless.image.store.staging import Staging, clear_leftovers, store_lock
from rootless.image.store.store import Store
from rootless.image.transfer.record import read_metas, record
from rootless.linux import prctl
from rootless.linux.idmap import Call
from rootless.linux.signals import signal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rootless.dockerfile import Dockerfile
    from rootless.engine.build.progress import Progress
    from rootless.engine.build.request import BuildRequest
    from rootless.engine.build.steps import Stage
    from rootless.image.model.reference import Reference
    from rootless.image.registry.progress import Progress as ImageProgress
    from rootless.linux.idmap import IdMap

_EPOCH = "SOURCE_DATE_EPOCH"
_IMAGE = "docker-image://"
_LAYOUT = "oci-layout://"
_SECRET_LIMIT = 500 << 10  # bytes, BuildKit's


class Given(NamedTuple):
    """What to build, where it is no Dockerfile.

    Attributes:
        name: of the file, as messages have it.
        dockerfile: the instructions of a file in another language.
        contexts: as of `--build-context`; "": the main one.
    """

    name: str
    dockerfile: Dockerfile
    contexts: dict[str, context.Context]


class Bases:
    """The base images of a build, looked up or pulled once each."""

    def __init__(
        self,
        store: Store,
        request: BuildRequest,
        idmap: IdMap,
        pulled: ImageProgress | None = None,
    ) -> None:
        self._store = store
        self._pulled = pulled
        self._request = request
        self._idmap = idmap
        self._known: dict[tuple[str, str], Base] = {}

    def __call__(self, name: str, platform: str) -> Base:
        """Return the base image of that name, with its layers for the map of the build.

        Args:
            platform: of FROM, or of the target; "": the host's.

        Raises:
            RlessError: it is not there and cannot be pulled.
        """
        known = self._known.get((name, platform))
        if known is None:
            known = self._known[(name, platform)] = self._find(name, platform)
        return known

    def _find(self, name: str, platform: str) -> Base:
        from rootless.image.transfer import pull
        from rootless.image.transfer.install import ensure_layers

        found = pull.pull(
            name,
            self._store,
            platform=platform or None,
            policy="always" if self._request.pull or is_path(name) else "missing",
            quiet=self._request.progress == "quiet",
            signature_policy=self._request.signature_policy,
            idmap_for=lambda _: self._idmap,
            progress=self._pulled,
        )
        ensure_layers(found, self._idmap, self._store)
        data = records.get_blob(found.root, found.id)
        if data is None:
            raise RlessError(f"the config of image {found.id[7:19]} is gone", "pull it again", 1)
        config: dict[str, Any] = jsontext.loads(data)
        return Base(name, found.id, found.digest, config, tuple(found.chain), found.platform)


def build(
    request: BuildRequest,
    shown: Progress | None = None,
    pulled: ImageProgress | None = None,
    given: Given | None = None,
) -> str:
    """Build an image; return its id, "" where none was recorded.

    Of several platforms it is the id of the host's, or else of the first.

    Args:
        shown: told what happens, in place of what the request asks for.
        pulled: told how base images come.
        given: in place of a Dockerfile and a context.

    Raises:
        RlessError: the Dockerfile is wrong, or a step failed. Names are as before then, and the
            store has nothing new but the results of the steps before.
    """
    wanted = outputs.asked_for(request)
    tags = dict.fromkeys((*request.tags, *(name for one in wanted for name in one.names)))
    names = [parse_name(tag) for tag in tags]
    with contextlib.ExitStack() as opened:
        secrets = _read_secrets(request)
        if given is None:
            contexts, text = _open_contexts(request, secrets, opened)
        else:
            contexts = given.contexts
        shown = shown or progress.make(request)
        if given is None:
            shown.show_source(request.file or "Dockerfile", text.decode("utf-8", "replace"))
            dockerfile = parse_dockerfile(text)
        else:
            dockerfile = given.dockerfile
            shown.show_source(given.name, dockerfile.text)
        opened.callback(shown.finish)
        request = with_epoch(request, dockerfile, contexts.get(""))
        store = Store(paths.storage_root())
        records.make_frame(store.root)
        clear_leftovers(store.root)
        idmap = _choose_map(request)
        with store_lock(store.root), Staging(store.root) as staging:
            paths.private_dir(f"{store.root}/layers/{idmap.key}")
            bases = Bases(store, request, idmap, pulled)
            made = plan.join([
                plan.make(dockerfile, _plan_options(request, contexts, platform), bases)
                for platform in request.platforms or ("",)
            ])  # fmt: skip
            shown.show_plan(made)
            for line in made.warnings:
                shown.handle({"kind": "warning", "text": line})
            carried = opened.enter_context(Carried(request, store, idmap, shown.handle))
            site = Site(made, request, store.root, staging.path, idmap, contexts)
            site.cgroup = limits.make(request.run_settings())
            if site.cgroup is not None:
                opened.callback(site.cgroup.destroy)
            site.secrets = secrets
            if request.ssh:
                from rootless.engine.build import ssh_agent

                site.agents = ssh_agent.open_agents(request.ssh, staging.path, opened)
            site.trees = tuple(output for output in wanted if output.takes_tree)
            if any(output.rewrite_timestamp for output in wanted):
                site.newest = request.epoch()
            site.takes_image = any(output.takes_image for output in wanted)
            results = _do_steps(site, store, carried, shown)
            identifiers = [
                _record(site, store, carried, target, results, names)
                for target in (made.targets if site.takes_image else ())
            ]
            identifier = identifiers[request.main] if identifiers else ""
            known: dict[str, Any] = {}
            if identifier:
                events.record(
                    "build", "image", identifier, name=names[0].familiar if names else ""
                )
            for output in wanted if identifier else ():
                if output.takes_image:
                    quiet = request.progress == "quiet"
                    known |= outputs.export_image(
                        output, identifiers, [*tags], makes_index=request.makes_index, quiet=quiet
                    )
            carried.export(made, results, staging.path)
    if site.may_have_grown:
        trim(store.root)
    outputs.write_results(request, identifier, [*tags], known)
    return identifier


def with_epoch(
    request: BuildRequest, dockerfile: Dockerfile, main: context.Context | None
) -> BuildRequest:
    """Return the request with SOURCE_DATE_EPOCH in seconds, also of an ARG before the first FROM.

    Raises:
        RlessError: it is no time, or that of a context that has none.
    """
    given = global_scope(dockerfile.args, request.build_args, {}).get(_EPOCH, "")
    given = request.build_args.get(_EPOCH, given)
    if given == "context":
        if main is None or main.time is None:
            raise RlessError(
                f"{_EPOCH}=context: this context is no git repository, so it has no time",
                "give seconds since 1970",
                1,
            )
        given = str(main.time)
    if given == request.build_args.get(_EPOCH, ""):
        return request
    request = replace(request, build_args={**request.build_args, _EPOCH: given})
    request.epoch()
    return request


def _record(
    site: Site,
    store: Store,
    carried: Carried,
    target: Stage,
    results: Sequence[Result],
    names: Sequence[Reference],
) -> str:
    """Record the image of a target; return its id."""
    request, key, scratch = site.request, site.idmap.key, site.staging
    place = site.plan.targets.index(target)
    if request.squash:
        squashed = results[len(site.plan.stages) + place]
        results = image.squashed(site.plan, target, results, squashed)
    metas = read_metas(store.root, key, results[target.index].state.chain)
    document = image.document(site.plan, target, results, metas, request.epoch())
    carried.add_inline(document, results, target)
    platform = None if place == request.main else request.platforms[place]
    return record(store, key, document, metas, names, scratch, platform)


def read_dockerfile(request: BuildRequest) -> tuple[bytes, plan.Options]:
    """Return the Dockerfile, and what the request says of it, without a look at any image.

    Raises:
        RlessError: there is none, or a context cannot be opened.
    """
    with contextlib.ExitStack() as opened:
        contexts, text = _open_contexts(request, _read_secrets(request), opened)
        return text, _plan_options(request, contexts, next(iter(request.platforms), ""))


def _open_contexts(
    request: BuildRequest, secrets: Mapping[str, bytes], opened: contextlib.ExitStack
) -> tuple[dict[str, context.Context], bytes]:
    """Open the contexts that have files; return them, the main one as "", and the Dockerfile.

    Raises:
        RlessError: one cannot be opened or fetched, or there is no Dockerfile.
    """
    opener = Opener(request, secrets, opened)
    file = request.file
    if is_fetched(request.context):
        main = opener.open(request.context)
    else:
        beside = None if is_fetched(file) else file  # the ignore file beside the Dockerfile
        main = opened.enter_context(context.open_context(request.context, beside))
    found = {"": main}
    for name, source in request.build_contexts.items():
        if _image_of(source):
            continue
        if is_fetched(source):
            found[name] = opener.open(source, is_main=False)
        else:
            found[name] = opened.enter_context(context.open_context(source))
    if request.sent:
        if main.dockerfile is not None:
            return found, main.dockerfile  # it came without a context
        context.hide_itself(main, file)
    elif file != "-" and is_fetched(file):
        return found, opener.read_url(file)
    return found, context.read_dockerfile(main, file)


def _image_of(source: str) -> str:
    """Return the image that a build context is; "": it has files."""
    if source.startswith(_LAYOUT):
        path, at, digest = source.removeprefix(_LAYOUT).partition("@")
        return f"oci:{path}" + (f":@{digest}" if at else "")
    return source.removeprefix(_IMAGE) if source.startswith(_IMAGE) else ""


def _plan_options(
    request: BuildRequest, contexts: Mapping[str, context.Context], wanted: str
) -> plan.Options:
    target, host = parse_platform(wanted), host_platform()
    predefined: dict[str, str] = {}
    for kind, platform in (("TARGET", target), ("BUILD", host)):
        predefined |= {
            f"{kind}PLATFORM": str(platform),
            f"{kind}OS": platform.os,
            f"{kind}ARCH": platform.architecture,
            f"{kind}VARIANT": platform.variant,
            f"{kind}OSVERSION": "",
        }
    return plan.Options(
        target=request.target,
        build_args=request.build_args,
        labels=request.labels,
        platform=wanted,
        predefined=predefined,
        contexts={name: _image_of(source) for name, source in request.build_contexts.items()},
        ignored=contexts[""].ignore if "" in contexts else None,
    )


def _read_secrets(request: BuildRequest) -> dict[str, bytes]:
    """Return the values of --secret by their ids.

    Raises:
        RlessError: a file cannot be read, or a variable is not set.
    """
    found = {}
    for secret in request.secrets:
        what = f"--secret id={escape(secret.id)}"
        if secret.env:
            if secret.env not in os.environ:
                raise RlessError(f"{what}: the variable {escape(secret.env)} is not set")
            found[secret.id] = os.environb[os.fsencode(secret.env)]
            continue
        try:
            with open(secret.path, "rb") as file:
                found[secret.id] = file.read(_SECRET_LIMIT + 1)
        except OSError as error:
            raise RlessError(f"{what}: {secret.path}: {error.strerror}") from error
        if len(found[secret.id]) > _SECRET_LIMIT:
            raise RlessError(f"{what}: {secret.path} is larger than {_SECRET_LIMIT >> 10} KiB")
    return found


def _choose_map(request: BuildRequest) -> IdMap:
    """Return the map in which the caller is root: that of a plain run of any user of the result."""
    subordinate = idmap_policy.Subordinate()
    idmap = idmap_policy.choose(request.userns, (0, 0), subordinate, (0, 0))
    if idmap.single and request.userns != "single":
        idmap_policy.warn_single(subordinate)
    return idmap


def _do_steps(site: Site, store: Store, carried: Carried, shown: Progress) -> list[Result]:
    """Do the steps; if a layer of another cache cannot be had, once more without those."""
    for attempt in (1, 2):
        site.scratch = f"{site.staging}/{attempt}"
        os.mkdir(site.scratch, 0o700)
        site.use(carried.imports)
        bringer = Bringer(store, site.idmap, carried.imports, f"{site.scratch}/brought")
        network = Network(site.settings)
        try:
            return _attend(site, network, bringer, shown)
        except RlessError as error:
            if not bringer.close() or attempt > 1:
                raise
            carried.give_up(error)
        finally:
            network.close()
            bringer.close()
    raise AssertionError


def _attend(site: Site, network: Network, bringer: Bringer, shown: Progress) -> list[Result]:
    """Have the builder do the steps; show what it says, and give it what it asks for."""
    site.network, site.bringer = network.client, bringer.client
    messages, writer = os.pipe()
    call = Call(site.idmap, _be_builder, site, messages, network.fd, writer, os.getpid())
    os.close(writer)
    network.forget_client()
    bringer.forget_client()
    poll = select.poll()
    poll.register(messages, select.POLLIN)
    poll.register(network.fd, select.POLLIN)
    poll.register(bringer.fd, select.POLLIN)
    receiver = Receiver(messages)
    try:
        while not receiver.ended:
            ready = [fd for fd, _ in poll.poll()]
            if network.fd in ready:
                network.answer(call.pid)
            if bringer.fd in ready:
                bringer.answer()
            if messages in ready:
                for message in receiver.read():
                    shown.handle(message)
        has_made, rows = call.result()
        site.may_have_grown = has_made or bool(site.imports.entries) or site.request.squash
        return [
            Result(State(key, tuple(chain)), dict(layers), tuple(keys))
            for key, chain, layers, keys in rows
        ]
    finally:
        call.close()
        os.close(messages)


def _be_builder(site: Site, messages: int, network: int, writer: int, parent: int) -> list[Any]:
    """Do all steps, in the namespaces of the build."""
    prctl.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(137)
    os.close(messages)
    os.close(network)
    # A key of the terminal is for the build process, which ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    builder = Builder(site, sender(writer))
    results: Sequence[Result] = builder.run()
    if site.takes_image or site.trees:
        for target in site.plan.targets:
            site.require(results[target.index].state.chain, lambda: None)
    site.cache.keep_carried(key for result in results for key in result.keys)
    step_process.export(site, results)
    if site.request.squash and site.takes_image:
        squashed = [step_process.squash(site, one, results) for one in site.plan.targets]
        results = [*results, *squashed]
    os.close(writer)
    rows = [
        [result.state.key, list(result.state.chain), list(result.layers.items()), result.keys]
        for result in results
    ]
    return [builder.has_made, rows]
