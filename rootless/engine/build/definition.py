"""Definition files: what a stage of one says, as the instructions that `build` does.

    Bootstrap, From     FROM; a tree of files is a context, which is copied onto scratch
    %files              COPY of the host's root directory, by the rules of `cp -r`
    %post, %appinstall  RUN of a script, as root
    the other sections  files in /.singularity.d, or of an application in /scif; labels
    %test               a build of its own, whose result is dropped

So there is one builder, one cache and one way to be root for both languages.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from rootless.definition import DefinitionError, apps, labels_of, scripts
from rootless.dockerfile import Dockerfile, Stage
from rootless.dockerfile import instructions as form
from rootless.dockerfile.reader import Directives, Node
from rootless.image.squashfs.image_file import apptainer_shell
from rootless.image.squashfs.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from rootless.definition import App, Definition, Files, Script
    from rootless.definition import Stage as TextStage

DIRECTORY = "/.singularity.d"
_ENVIRONMENT = f"{DIRECTORY}/env/90-environment.sh"
_TEST = f"{DIRECTORY}/test"
_APPS = f"{DIRECTORY}/env/94-appsbase.sh"
_CHOOSE = f"{DIRECTORY}/env/95-apps.sh"
_LABELS = "/.build.labels"  # what %post says of labels; it is removed then
_MOST = 4 << 20  # bytes of a file of the base
_ARCHIVES = ("docker-archive", "oci", "oci-archive")
_REFUSED = {
    "library": ("there is no library", "use Bootstrap: docker"),
    "shub": ("Singularity Hub was closed", "use Bootstrap: docker"),
    "docker-daemon": ("there is no daemon", "use docker save, and Bootstrap: docker-archive"),
    **dict.fromkeys(
        ("yum", "dnf", "zypper", "arch", "busybox", "debootstrap", "mmdebstrap"),
        ("a distribution is not installed from its packages", "use Bootstrap: docker"),
    ),
}
# Sections that run on the host.
_HOST = ("pre", "setup")
# Sections, and the files of /.singularity.d that they become, which are executed.
_SCRIPTS = ("runscript", "startscript", "test")
_SPECIAL = re.compile(r"""[\\$'"]""")
_EVALUATED = re.compile(r"[$`]|^~")


class Base(NamedTuple):
    """The files that a stage of `Bootstrap: localimage` begins with.

    Attributes:
        path: of the directory. environment: NAME=VALUE of its config.
    """

    path: str
    environment: tuple[str, ...] = ()


class _Post(form.Run):
    """%post, %test."""

    script_text: str = ""
    words: tuple[str, ...] = ()

    def script(self) -> str:
        """Return the file that is executed."""
        return self.script_text

    def interpreter(self) -> tuple[str, ...]:
        """Return what executes it."""
        return self.words


def does(sections: Collection[str], name: str) -> bool:
    """Tell whether a section is done.

    Args:
        sections: of --section; none: all of them.
    """
    return not sections or name in sections or "all" in sections


def check(definition: Definition, sections: Collection[str] = ()) -> None:
    """Refuse what is not done, by name.

    Args:
        sections: of --section; none: all of them.

    Raises:
        DefinitionError: there is something.
    """
    for stage in definition.stages:
        kind = stage.header["bootstrap"].lower()
        if kind in _REFUSED:
            why, use = _REFUSED[kind]
            raise DefinitionError(f"Bootstrap: {kind} is not supported: {why}", use, stage.line)
        if kind not in ("docker", "localimage", "oras", "scratch", *_ARCHIVES):
            raise DefinitionError(
                f"Bootstrap: {kind}: there is no such kind", "use Bootstrap: docker", stage.line
            )
        if kind != "scratch" and not stage.header.get("from"):
            raise DefinitionError(f"Bootstrap: {kind} needs From:", None, stage.line)
        for name in _HOST:
            if stage.script(name) and does(sections, name):
                raise DefinitionError(
                    f"%{name} is not supported: it would run on the host, as you",
                    "use %files and %post",
                    stage.scripts[name].line,
                )


def images(definition: Definition) -> dict[int, str]:
    """Return the images that are files or directories: index of a stage -> path, or a URI."""
    found = {}
    for index, stage in enumerate(definition.stages):
        kind, source = stage.header["bootstrap"].lower(), stage.header.get("from", "")
        if kind == "localimage":
            found[index] = os.path.abspath(source)
        elif kind == "oras":
            found[index] = f"oras://{registry_name(stage)}"
    return found


def archives(definition: Definition) -> dict[int, str]:
    """Return the archives that are needed: index of a stage -> name of the image in it."""
    found = {}
    for index, stage in enumerate(definition.stages):
        kind = stage.header["bootstrap"].lower()
        if kind in _ARCHIVES:
            path = stage.header["from"].removeprefix("//")
            found[index] = f"{kind}:{os.path.abspath(path)}"
    return found


def registry_name(stage: TextStage) -> str:
    """Return the name of what a stage of `Bootstrap: docker`, or `oras`, begins with."""
    parts = [stage.header.get(key, "").strip("/") for key in ("registry", "namespace")]
    name = stage.header["from"].removeprefix("docker://").removeprefix("oras://")
    return "/".join([*filter(None, parts), name])


def context_name(index: int) -> str:
    """Return the name of the context with the files of a local image; no stage can have it."""
    return f"local image {index}"


def compose(
    definition: Definition,
    bases: Mapping[int, Base],
    loaded: Mapping[int, str],
    sections: Collection[str] = (),
) -> Dockerfile:
    """Return the instructions that make the image of a definition file.

    Args:
        bases: of `images`, unpacked. loaded: of `archives`, the ids of the images.
        sections: of --section; none: all of them.

    Raises:
        DefinitionError: a file of %files is not there.
    """
    names = [stage.name for stage in definition.stages]
    stages = [
        _Composer(stage, index, bases.get(index), sections, names).stage(loaded.get(index, ""))
        for index, stage in enumerate(definition.stages)
    ]
    return _file(definition.text, stages)


def compose_test(definition: Definition, image: str) -> Dockerfile | None:
    """Return the instructions that run the test of the image that was built; None: it has none.

    Args:
        image: its id.
    """
    script = definition.stages[-1].scripts.get("test")
    if script is None or not definition.stages[-1].script("test"):
        return None
    node = _node("%test", script.line, script.last)
    shell, _, text, _ = apptainer_shell("", 127)  # which sets the environment first
    run = _Post(
        node, form.Command(""), script_text=f"set -- {_TEST}\n{text}\n", words=(shell,)
    )
    workdir = form.Workdir(node, "/")
    base = form.From(node, _literal(image))
    return _file(definition.text, [Stage(0, base, (form.User(node, "0:0"), workdir, run))])


def says_labels(stage: TextStage) -> bool:
    """Tell whether %post may say labels of the image, in a file that is read afterwards."""
    installs = [app.scripts.get("appinstall") for app in stage.apps.values()]
    texts = [stage.script("post"), *(one.text for one in installs if one is not None)]
    return any("_LABELS" in text for text in texts)


def compose_labels_file(definition: Definition, image: str) -> Dockerfile:
    """Return the instructions whose result is that file alone, as `labels`."""
    node = _node("%post", definition.stages[-1].line)
    copy = form.Copy(node, (_LABELS,), "/labels", origin=_stage_name(0))
    base = form.From(node, _literal(image), "", _stage_name(0))
    own = form.From(node, "scratch")
    return _file(definition.text, [Stage(0, base, ()), Stage(1, own, (copy,))])


def compose_labels(definition: Definition, image: str, text: str) -> Dockerfile:
    """Return the instructions that give the image the labels of that file in its place."""
    node = _node("%post", definition.stages[-1].line)
    labels = labels_of(text)
    made = (
        form.User(node, "0:0"),
        form.Label(node, tuple((_literal(a), _literal(b)) for a, b in labels.items())),
        _Post(node, form.Command(""), script_text=f"rm -f {_LABELS}\n", words=("/bin/sh",)),
    )
    return _file(definition.text, [Stage(0, form.From(node, _literal(image)), made)])


def _file(text: str, stages: Sequence[Stage]) -> Dockerfile:
    return Dockerfile(text, Directives(skipped=frozenset(["all"])), (), tuple(stages))


def _node(text: str, line: int, last: int = 0) -> Node:
    name, _, rest = text.partition(" ")
    return Node(name, (), rest, text, line, last or line)


def _literal(text: str) -> str:
    """Return a word of a Dockerfile that stands for a text as it is."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def _stage_name(index: int) -> str:
    """Return the name of a stage; no image can have it."""
    return f"stage {index}"


class _Composer:
    """Writes the instructions of one stage."""

    def __init__(
        self,
        stage: TextStage,
        index: int,
        base: Base | None,
        sections: Collection[str],
        names: Sequence[str],
    ) -> None:
        self._stage = stage
        self._index = index
        self._base = base
        self._names = names  # of all stages
        self._sections = sections
        self._made: list[form.Instruction] = []

    def stage(self, loaded: str) -> Stage:
        """Return the stage; `loaded`: the id of an image that was in an archive."""
        stage = self._stage
        node = _node(f"Bootstrap: {stage.header['bootstrap']}", stage.line)
        base = form.From(node, _literal(loaded or self._from()), "", _stage_name(self._index))
        self._made += [form.User(node, "0:0"), form.Workdir(node, "/")]
        if self._base is not None:
            self._take_base(self._base, node)
        for name, app in stage.apps.items():
            self._make_app(name, app, node)
        self._copy_all(stage.files)
        installs = {
            name: app.scripts["appinstall"]
            for name, app in stage.apps.items()
            if "appinstall" in app.scripts
        }
        if self._does("post"):
            if self._index == len(self._names) - 1 and says_labels(stage):
                self._write_file(node, _LABELS, "")
            if stage.script("post"):
                post = stage.scripts["post"]
                self._run(post, f"%post {post.arguments}".rstrip(), post.text)
            for name, script in installs.items():
                self._run(script, f"%appinstall {name}", apps.install(name, script))
        if self._index == len(self._names) - 1:
            self._describe(node)
        return Stage(self._index, base, tuple(self._made))

    def _does(self, section: str) -> bool:
        return does(self._sections, section)

    def _from(self) -> str:
        stage = self._stage
        is_named = stage.header["bootstrap"].lower() == "docker"
        return registry_name(stage) if is_named else "scratch"

    def _take_base(self, base: Base, node: Node) -> None:
        self._made.append(form.Copy(node, ("/",), "/", origin=context_name(self._index)))
        pairs = [entry.partition("=")[::2] for entry in base.environment]
        if pairs:
            self._made.append(form.Env(node, tuple((_literal(a), _literal(b)) for a, b in pairs)))

    def _make_app(self, name: str, app: App, node: Node) -> None:
        self._made += [form.Workdir(node, path) for path in apps.directories(name)]
        self._made.append(form.Workdir(node, "/"))
        for directory, texts, runs in apps.files(name, app, self._does):
            self._write(node, directory, [*texts.items()], "0755" if runs else "0644")
        self._copy_all(app.files, apps.root(name))

    def _copy_all(self, files: Iterable[Files], top: str = "/") -> None:
        if self._does("files"):
            for one in sorted(files, key=lambda one: not one.origin):  # those of stages come first
                self._copy(one, top)

    def _copy(self, one: Files, top: str) -> None:
        if _EVALUATED.search(one.source):
            raise DefinitionError(
                f"%files {one.source}: variables and ~ have no value there",
                "use --build-arg, and {{ NAME }}",
                one.line,
            )
        source, origin = one.source, ""
        if one.origin:
            origin = _stage_name(self._names.index(one.origin))
        else:
            # A directory of ours is no pattern.
            here = re.sub(r"[*?\[\\]", r"\\\g<0>", os.getcwd())
            source = os.path.join(here, source)
            if not re.search(r"[*?\[\\]", source) and not os.path.exists(source):
                raise DefinitionError(
                    f"%files {one.source}: there is no such file", None, one.line
                )
        target = os.path.join("/", one.target or one.source)
        if top != "/":
            target = top + target
        node = _node(f"%files {one.source} {one.target}".rstrip(), one.line)
        self._made.append(
            form.Copy(node, (_literal(source),), _literal(target), origin=origin, like_cp=True)
        )

    def _run(self, script: Script, title: str, text: str) -> None:
        node = _node(title, script.line, script.last)
        variables = [
            (f"{front}_{name}", value)
            for front in ("APPTAINER", "SINGULARITY")
            for name, value in (
                ("ENVIRONMENT", f"{DIRECTORY}/env/91-environment.sh"),
                ("LABELS", _LABELS),
                ("ROOTFS", "/"),
            )
        ]
        self._made += [
            form.Workdir(node, f"{DIRECTORY}/env"),  # for what %post adds to the environment
            form.Workdir(node, "/"),
            form.Arg(node, tuple(variables)),
        ]
        words = scripts.interpreter(script)
        if self._base is not None:
            # What the base says of the environment holds for %post, as it does for a run.
            shell = apptainer_shell("", 127)
            words = (*shell, *words)
        self._made.append(
            _Post(node, form.Command(""), script_text=text, words=words)
        )

    # -- what the image says of itself -------------------------------------------------------

    def _describe(self, node: Node) -> None:
        stage = self._stage
        files: list[tuple[str, str]] = []
        for name in _SCRIPTS:
            if self._does(name) and stage.script(name):
                files.append((name, scripts.shebang(stage.scripts[name])))
        help_text = stage.script("help") if self._does("help") else ""
        environment = stage.script("environment") if self._does("environment") else ""
        if help_text:
            self._write(node, f"{DIRECTORY}/", [("runscript.help", f"{help_text}\n")], "0644")
        if files:
            self._write(node, f"{DIRECTORY}/", files)
        if environment:
            text = scripts.environment(self._read(_ENVIRONMENT), environment)
            self._write_file(node, _ENVIRONMENT, text)
        if stage.apps:
            told = "".join(apps.exports(name, app) for name, app in stage.apps.items())
            self._write_file(node, _APPS, (self._read(_APPS) or "#!/bin/sh\n") + told)
            self._write_file(node, _CHOOSE, f"#!/bin/sh\n{apps.choose()}")
        labels = self._labels(help_text)
        self._made.append(
            form.Label(node, tuple((_literal(a), _literal(b)) for a, b in labels.items()))
        )

    def _write_file(self, node: Node, path: str, text: str) -> None:
        directory, _, name = path.rpartition("/")
        self._write(node, f"{directory}/", [(name, text)])

    def _write(
        self, node: Node, directory: str, files: Sequence[tuple[str, str]], mode: str = "0755"
    ) -> None:
        made = tuple(form.InlineFile(name, text, expands=False) for name, text in files)
        self._made.append(form.Copy(node, (), directory, files=made, chmod=mode))

    def _labels(self, help_text: str) -> dict[str, str]:
        stage, schema = self._stage, "org.label-schema.usage"
        found = self._base_labels()
        for key, value in stage.header.items():
            found[f"{schema}.singularity.deffile.{key}"] = value
        if help_text:
            found[schema] = found[f"{schema}.apptainer.runscript.help"] = (
                f"{DIRECTORY}/runscript.help"
            )
        if self._does("labels"):
            found |= stage.labels
        return found

    def _base_labels(self) -> dict[str, str]:
        try:
            found = json.loads(self._read(f"{DIRECTORY}/labels.json") or "{}")
        except ValueError:
            return {}
        if not isinstance(found, dict):
            return {}
        return {str(name): str(value) for name, value in found.items()}

    def _read(self, path: str) -> str:
        """Return the text of a file of the base, "" if it has none."""
        if self._base is None:
            return ""
        with Tree(self._base.path) as tree:
            return (tree.read(path, _MOST) or b"").decode("utf-8", "replace")
