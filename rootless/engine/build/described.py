"""Images from definition files: unpack what they begin with, build, test, write the target."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from rootless import paths
from rootless.definition import DefinitionError
from rootless.dockerfile import DockerfileError
from rootless.dockerfile.scope import PROXIES
from rootless.engine import idmap_policy
from rootless.engine.build import definition as language
from rootless.engine.build.build import Given, build
from rootless.engine.build.context import Context
from rootless.engine.build.remote import image_files
from rootless.engine.build.request import BuildRequest
from rootless.engine.images import flatten, sandbox
from rootless.errors import RlessError, escape
from rootless.frozen import Frozen, replace
from rootless.image.squashfs import image_file
from rootless.image.squashfs.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rootless.definition import Definition
    from rootless.dockerfile import Dockerfile

_NAME = "definition file"
_NOT_KEPT = ("type=cacheonly",)
_MOST_LABELS = 1 << 20  # bytes


class Wanted(Frozen, kw_only=True):
    """What is asked for.

    Attributes:
        target: absolute. sandbox: a directory, no SIF file.
        update: build on the directory that is there.
        sections: of --section; none: all of them.
        test: run %test at the end, if it is one of the sections.
        platform: as OS/ARCH; "": the host's.
        fresh: take no step from the cache, and ask the registry for each image.
        scratch: a directory for what is unpacked meanwhile, "": beside the target.
        quiet: show no progress.
    """

    target: str
    sandbox: bool = False
    update: bool = False
    sections: tuple[str, ...] = ()
    test: bool = True
    platform: str = ""
    fresh: bool = False
    scratch: str = ""
    quiet: bool = False


def make(definition: Definition, wanted: Wanted) -> None:
    """Make the image of a definition file, whole or not at all.

    Raises:
        RlessError: the definition is wrong, or something is not supported; a step or the test
            failed; the target cannot be written.
    """
    if wanted.update:
        *others, last = definition.stages
        last = replace(last, header={"bootstrap": "localimage", "from": wanted.target})
        definition = replace(definition, stages=(*others, last))
    language.check(definition, wanted.sections)
    with contextlib.ExitStack() as opened:
        bases = _open_bases(definition, wanted, opened)
        loaded = _load(language.archives(definition), wanted)
        dockerfile = language.compose(definition, bases, loaded, wanted.sections)
        contexts = {"": _context("/", opened)}
        for index, base in bases.items():
            contexts[language.context_name(index)] = _context(base.path, opened)
        identifier = _build(dockerfile, contexts, wanted)
        if language.does(wanted.sections, "post") and language.says_labels(definition.stages[-1]):
            identifier = _take_labels(definition, identifier, contexts[""], wanted)
        is_tested = wanted.test and language.does(wanted.sections, "test")
        test = language.compose_test(definition, identifier) if is_tested else None
        if test is not None:
            _build(test, {"": contexts[""]}, wanted, _NOT_KEPT)
    text = definition.text
    if not wanted.sandbox:
        flatten.flatten(
            identifier, wanted.target, sif=True, deffile=text, described=True, force=True
        )
        return
    with sandbox.in_place_of(wanted.target) as target:
        sandbox.of_name(identifier, target, deffile=text, described=True)


def _build(
    dockerfile: Dockerfile,
    contexts: Mapping[str, Context],
    wanted: Wanted,
    outputs: Sequence[str] = (),
) -> str:
    names = [name for one in PROXIES for name in (one, one.lower()) if name in os.environ]
    request = BuildRequest(
        context="/",
        build_args={name: os.environ[name] for name in names},
        build_contexts={name: "." for name in contexts if name},
        platforms=(wanted.platform,) if wanted.platform else (),
        pull=wanted.fresh and not outputs,
        no_cache=wanted.fresh,
        outputs=tuple(outputs),
        progress="quiet" if wanted.quiet else "auto",
    )
    try:
        return build(request, given=Given(_NAME, dockerfile, dict(contexts)))
    except DockerfileError as error:
        raise DefinitionError(error.bare, error.hint, error.line) from error
    except RlessError as error:
        # The code of what was run is none of the build's.
        raise RlessError(error.message, error.hint) from error


def _take_labels(
    definition: Definition, identifier: str, context: Context, wanted: Wanted
) -> str:
    """Give the image the labels that %post has said; return its new id."""
    with sandbox.scratch(_scratch_of(wanted)) as place:
        # Commas and quotes are the output's.
        output = 'type=local,"dest={}"'.format(f"{place}/out".replace('"', '""'))
        only = language.compose_labels_file(definition, identifier)
        _build(only, {"": context}, replace(wanted, quiet=True), (output,))
        with Tree(f"{place}/out") as tree:
            text = (tree.read("/labels", _MOST_LABELS) or b"").decode("utf-8", "replace")
    dockerfile = language.compose_labels(definition, identifier, text)
    return _build(dockerfile, {"": context}, replace(wanted, quiet=True))


def _scratch_of(wanted: Wanted) -> str:
    return wanted.scratch or os.path.dirname(wanted.target)


def _context(path: str, opened: contextlib.ExitStack) -> Context:
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RlessError(f"cannot open {escape(path)}: {error.strerror}") from error
    return opened.enter_context(Context(fd))


def _load(archives: Mapping[int, str], wanted: Wanted) -> dict[int, str]:
    """Take images out of archives into the storage; return their ids."""
    from rootless.image.store.store import Store
    from rootless.image.transfer.pull import pull

    store = Store(paths.storage_root())
    return {
        index: pull(
            name,
            store,
            platform=wanted.platform or None,
            quiet=wanted.quiet,
            idmap_for=lambda _: idmap_policy.build(0, 0, idmap_policy.Subordinate()),
        ).id
        for index, name in archives.items()
    }


def _open_bases(
    definition: Definition, wanted: Wanted, opened: contextlib.ExitStack
) -> dict[int, language.Base]:
    """Return the local images that stages begin with, as directories."""
    found = {}
    for index, path in language.images(definition).items():
        stage = definition.stages[index]
        if path.startswith("oras:"):
            asks, platform = wanted.fresh, wanted.platform or None
            path = image_files.held(path, asks=asks, platform=platform, quiet=wanted.quiet)
        elif not os.path.exists(path):
            raise DefinitionError(
                f"From: {stage.header['from']}: there is no such file or directory",
                None,
                stage.line,
            )
        if os.path.isdir(path):
            image = image_file.read_tree(path)
        else:
            image = image_file.read(path, paths.storage_root())
            path = f"{opened.enter_context(sandbox.scratch(_scratch_of(wanted)))}/root"
            sandbox.unpack(image, path)
        variables = image.config.get("Env") or () if image.made_by == "rless" else ()
        found[index] = language.Base(path, tuple(variables))
    return found
