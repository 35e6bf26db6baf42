"""The data of a build: what a plan says, what a step takes and gives.

A plan is made once, as a pure function of the Dockerfile, the request and the configs of the base
images (`plan`). What the steps do depends on nothing but this data and on files.
"""

from __future__ import annotations

from rootless.frozen import NOTHING, Frozen
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rootless.dockerfile.mounts import Device, Mount


ONBUILD = "ONBUILD "  # before the text of a step that the base has asked for


class Base(Frozen):
    """A base image, which is in the store.

    Attributes:
        name: as the Dockerfile has it; "scratch": the empty one.
        id: of the image, "" for scratch. digest: of its manifest, where a registry gave it.
        config: the whole config document (image-spec, config.md); of scratch only that it works in /.
        chain: chain ids of its layers, bottom first.
        platform: os, architecture, variant.
    """

    name: str
    id: str = ""
    digest: str = ""
    config: Mapping[str, Any] = NOTHING
    chain: tuple[str, ...] = ()
    platform: Mapping[str, str] = NOTHING


class Origin(Frozen):
    """Where a COPY or a bind mount takes files from.

    Attributes:
        kind: "context", "stage" or "image".
        name: of a named context, "" for the main one; of an image in `Plan.images`.
        stage: index of the stage in the plan; -1 where it is none.
    """

    kind: str
    name: str = ""
    stage: int = -1


class Step(Frozen, kw_only=True):
    """What every step has.

    Attributes:
        number: from 1 within its stage, of those that progress counts.
        text: as it is shown: the instruction in one line, unexpanded.
        created_by: the text for the history of the image.
        line, end_line: of the Dockerfile.
    """

    number: int
    text: str
    created_by: str
    line: int
    end_line: int

    def origins_of(self) -> tuple[Origin, ...]:
        """Return where it takes files from."""
        return ()

    def stages(self) -> set[int]:
        """Return the indices of the stages that it takes files from."""
        return {origin.stage for origin in self.origins_of() if origin.kind == "stage"}


class RunStep(Step, kw_only=True):
    """RUN.

    Attributes:
        args: the argv; of a script, what stands before its name.
        script: the body of a here-document that is executed as a file; "": none.
        env: NAME=VALUE of the image and of ARGs in scope; the proxies come on top.
        user: as USER has it. directory: WORKDIR.
        mounts: of --mount; their `from` are resolved in `origins`, by their index.
        network: "default", "none" or "host". security: "sandbox" or "insecure".
        devices: of --device.
    """

    args: tuple[str, ...]
    script: str = ""
    env: tuple[str, ...] = ()
    user: str = ""
    directory: str = "/"
    mounts: tuple[Mount, ...] = ()
    origins: Mapping[int, Origin] = NOTHING
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[Device, ...] = ()

    def origins_of(self) -> tuple[Origin, ...]:
        """Return where its bind and cache mounts take files from."""
        return tuple(self.origins.values())


class CopyStep(Step, kw_only=True):
    """COPY or ADD; all words are expanded.

    Attributes:
        add: it is ADD: archives, URLs, git.
        files: (name, content, executable) of here-documents.
        destination: absolute; it ends in a slash if it must be a directory.
        owner: of --chown, as typed; "": 0:0, or kept with --from. mode: of --chmod, as typed.
        exclude: patterns. checksum: of --checksum. unpack: None: by content (ADD).
        like_cp: a directory goes into one that is there, as by `cp -r`.
    """

    origin: Origin
    sources: tuple[str, ...]
    destination: str
    add: bool = False
    files: tuple[tuple[str, bytes], ...] = ()
    owner: str = ""
    mode: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool = False
    unpack: bool | None = None
    like_cp: bool = False

    def origins_of(self) -> tuple[Origin, ...]:
        """Return where it takes files from."""
        return (self.origin,)


class WorkdirStep(Step, kw_only=True):
    """WORKDIR: the directory is made where it is missing, owned by `user`."""

    directory: str
    user: str = ""


class History(Frozen):
    """One entry of the image's history; `step`: the one that made its layer, None: no layer."""

    created_by: str
    comment: str = ""
    step: Step | None = None


class Stage(Frozen):
    """One stage that the target needs.

    Attributes:
        index: its place in `Plan.stages`. name: of the Dockerfile, or its number there.
        base: an image, or the index of an earlier stage.
        steps: in order, with those of ONBUILD first.
        config: of the image after the last step (its `config` object), complete.
        history: after that of the base.
        author: of MAINTAINER.
        platform: that it is for, as OS/ARCH[/VARIANT].
    """

    index: int
    name: str
    base: Base | int
    steps: tuple[Step, ...]
    config: Mapping[str, Any]
    history: tuple[History, ...]
    author: str = ""
    platform: str = ""

    def needs(self) -> set[int]:
        """Return the indices of the stages that its base and steps are made from."""
        found = {self.base} if isinstance(self.base, int) else set()
        for step in self.steps:
            found |= step.stages()
        return found


class Plan(Frozen):
    """All stages that the targets need, each after those that it needs.

    Attributes:
        images: bases of `COPY --from=IMAGE` and of mounts, by the name in `Origin.name`.
        warnings: of the checks, one line each.
        targets: the stages that images are made of, one a platform.
    """

    stages: tuple[Stage, ...]
    images: Mapping[str, Base]
    warnings: tuple[str, ...] = ()
    targets: tuple[Stage, ...] = ()

    def base_of(self, stage: Stage) -> Base:
        """Return the image that a stage, or the stage below it, is built on."""
        while isinstance(stage.base, int):
            stage = self.stages[stage.base]
        return stage.base


class State(Frozen):
    """A tree of files: what a step starts from, and what it gives.

    Attributes:
        key: of the cache, 64 hexadecimal digits.
        chain: chain ids of its layers, bottom first.
    """

    key: str
    chain: tuple[str, ...] = ()


class Result(Frozen):
    """What a stage has come to.

    Attributes:
        state: its tree.
        layers: number of a step that has a layer -> when that was made, in seconds since 1970.
        keys: of the entries of the cache that its steps have, in their order.
    """

    state: State
    layers: Mapping[int, float] = NOTHING
    keys: tuple[str, ...] = ()

    @property
    def top(self) -> str:
        """Return the chain id of the topmost layer, which says what the files are; "": none."""
        return self.state.chain[-1] if self.state.chain else ""
