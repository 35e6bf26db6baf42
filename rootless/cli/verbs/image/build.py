"""`rless build`: turn the command line into a `BuildRequest` and hand it to the engine."""

from __future__ import annotations

import os

from rootless.cli import options, streams
from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.cli.parse import Group, Row
    from rootless.engine.build.request import BuildRequest

# Of `run`: they hold for each RUN.
_OF_RUN = (
    *("--add-host", "--dns", "--dns-search", "--dns-option", "--ulimit", "--shm-size"),
    *("--cap-add", "--cap-drop", "--security-opt", "--device"),
    *("--memory", "--memory-swap", "--cpus", "--cpu-shares", "--cpu-period", "--cpu-quota"),
    *("--cpuset-cpus", "--cpuset-mems", "--pids-limit", "--cgroup-parent", "--limits"),
)
_ROWS: dict[str, Row] = {row[0].split()[0]: row for _, rows in options.GROUPS for row in rows}
_SETTINGS = tuple(_ROWS[name][3] for name in _OF_RUN)

_IMAGE: Group = (
    "Image",
    (
        ("--tag -t", "NAME[:TAG]", "list", "tags", "build.tag", "Name the image"),
        ("--file -f", "FILE", "value", "file", "required",
         "The Dockerfile; -: standard input; a URL (Dockerfile, Containerfile or dockerfile of the"
         " context)"),
        ("--target", "STAGE", "value", "target", "line", "Build this stage (the last one)"),
        ("--build-arg", "NAME[=VALUE]", "list", "build_args", "build.build_arg",
         "Set an ARG; without a value, from your environment"),
        ("--build-context", "NAME=SOURCE", "list", "build_contexts", "build.build_context",
         "Another context, for FROM, COPY --from and RUN --mount: a directory, the URL of an"
         " archive, a git repository, docker-image://IMAGE, or oci-layout://DIR[:TAG|@DIGEST]"),
        ("--label", "KEY[=VALUE]", "map", "labels", "label", "Set a label of the image"),
        ("--platform", "OS/ARCH[/VARIANT]", "list", "platforms", "build.platforms",
         "Platform of the image; several, with commas too, make an index"),
        ("--pull", "", "flag", "pull", "boolean", "Ask the registry for newer base images"),
        ("--signature-policy", "FILE", "value", "signature_policy", "absolute",
         "The policy.json that pulled base images have to satisfy"),
    ),
)  # fmt: skip

_CALL: Group = (
    "In place of a build",
    (
        ("--check", "", "flag", "check", "boolean",
         "Only say what Docker's checks find; exit code 1 if that is something"),
        ("--call", "check|outline|targets[,format=json]", "value", "call", "build.call",
         "The same; what a target takes: arguments, secrets; the targets"),
    ),
)  # fmt: skip

_CACHE: Group = (
    "Cache",
    (
        ("--cache-from", "NAME|type=TYPE[,KEY=VALUE...]", "list", "cache_from", "text",
         "Look for results of steps there, too: type=registry,ref=NAME; type=local,src=DIR"),
        ("--cache-to", "type=TYPE[,KEY=VALUE...]", "list", "cache_to", "text",
         "Write the results there: type=registry,ref=NAME; type=local,dest=DIR; type=inline."
         " mode=max: those of all stages"),
        ("--no-cache", "", "flag", "no_cache", "boolean", "Do every step, also those done before"),
        ("--no-cache-filter", "STAGE[,STAGE...]", "list", "no_cache_filter", "build.words",
         "The same for some stages"),
    ),
)  # fmt: skip

_OUTPUT: Group = (
    "Output",
    (
        ("--output -o", "type=TYPE[,KEY=VALUE...]", "list", "outputs", "text",
         "What to make, instead of an image in the storage: local, tar, oci, docker, image,"
         " registry, squashfs, sif, cacheonly; or a directory"),
        ("--annotation", "KEY=VALUE", "list", "annotations", "text",
         "Set an annotation of the manifest of --push or --output type=oci"),
        ("--squash", "", "flag", "squash", "boolean", "One layer over the base for all steps"),
        ("--layers", "", "flag", "layers", "boolean", "One for each step (true); false: --squash"),
        ("--verify", "", "flag", "verify", "boolean",
         "Build twice without the cache, and fail if the two differ"),
        ("--push", "", "flag", "push", "boolean", "Push the image: --output type=registry"),
        ("--load", "", "flag", "load", "boolean",
         "Keep the image in the storage beside other outputs: --output type=docker"),
        ("--iidfile", "FILE", "value", "iidfile", "absolute", "Write the image's id to a file"),
        ("--metadata-file", "FILE", "value", "metadata_file", "absolute",
         "Write digest, id and names of the image to a file, as JSON"),
        ("--progress", "auto|tty|plain|quiet|rawjson", "value", "progress", "build.progress",
         "How to show what happens (auto)"),
        ("--quiet -q", "", "flag", "quiet", "boolean", "Show nothing, and print the image's id"),
    ),
)  # fmt: skip

_STEPS: Group = (
    "Each RUN",
    (
        ("--secret", "id=ID[,src=FILE|,env=NAME]", "list", "secrets", "build.secret",
         "A secret for RUN --mount=type=secret"),
        ("--ssh", "default|ID[=SOCKET|KEY]", "list", "ssh", "build.ssh",
         "An agent, or keys, for RUN --mount=type=ssh"),
        ("--network --net", "default|none|host", "value", "network", "build.network",
         "Network of RUN; default: one of its own, by pasta"),
        ("--allow", "ENTITLEMENT", "list", "allow", "build.allow",
         "What the Dockerfile may use: network.host, security.insecure, device[=NAME]"),
        ("--jobs", "N", "value", "jobs", "build.jobs",
         "How many steps are done at a time (the number of processors)"),
        ("--timeout", "TIME", "value", "timeout", "health.duration",
         "End a RUN that takes longer, as 30s or 1h; the build fails then"),
        ("--userns", "auto|host-root|single", "value", "userns", "build.userns",
         "Id map of the build, in which 0 is you"),
        *(_ROWS[name] for name in _OF_RUN),
    ),
)  # fmt: skip

_ACCEPTED: Group = (
    "Accepted without effect",
    (
        ("--rm", "", "flag", "accepted", "build.remove", "A step leaves no container"),
        ("--force-rm", "", "flag", "accepted", "boolean", "Nor does one that fails"),
        ("--compress", "", "flag", "accepted", "boolean", "The context is never sent"),
        ("--provenance", "false", "value", "accepted", "build.provenance", "Only `false`"),
        ("--sbom", "false", "value", "accepted", "build.sbom", "Only `false`"),
        ("--debug -D", "", "flag", "accepted", "boolean", "For a builder that is a server"),
        _ROWS["--isolation"],
        _ROWS["--disable-content-trust"],
    ),
)

_LATER = "not built yet"

VERB = Verb(
    "build",
    "[OPTIONS] DIR|URL|-",
    (_IMAGE, _CALL, _CACHE, _OUTPUT, _STEPS, _ACCEPTED),
    (
        ("--attest", "ATTESTATION", _LATER, ""),
        ("--volume -v", "SOURCE:TARGET", "a build should not depend on it",
         "use --build-context, and RUN --mount=type=bind"),
        ("--builder", "NAME", "there are no builders: rless is one", ""),
    ),
    least=1,
    most=1,
    examples=(
        ("An image from the Dockerfile of this directory", "rless build -t app ."),
        ("The same steps again, with newer base images", "rless build --pull -t app ."),
        ("One stage, with a variable", "rless build --target test --build-arg VERSION=2 ."),
        ("The files of an image, in a directory", "rless build -o out ."),
    ),
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Build an image."""
    made = request(values, args)
    if made.call:
        from rootless.cli.verbs.image.build_call import answer

        text, code = answer(made)
        streams.write(text)
        return code
    if values.get("verify"):
        from rootless.engine.build.verify import verify as build
    else:
        from rootless.engine.build.build import build

    try:
        identifier: str = build(made)
    except RlessError as error:
        error.exit_code = 1  # whatever a program of a step has ended with, as Docker
        raise
    if made.progress == "quiet":
        if identifier and not has_stdout(made):
            streams.write(f"{identifier}\n")
    elif made.progress != "rawjson" and identifier:
        names = "".join(f"Successfully tagged {escape(tag)}\n" for tag in made.tags)
        streams.write(f"Successfully built {identifier[7:19]}\n{names}", 2)
    return 0


def has_stdout(made: BuildRequest) -> bool:
    """Tell whether an archive was written to standard output."""
    from rootless.engine.build import outputs

    return any(output.dest == "-" for output in outputs.asked_for(made))


def request(values: dict[str, Any], args: list[str]) -> BuildRequest:
    """Return the request of a parsed command line.

    Raises:
        RlessError: flags contradict each other.
    """
    from rootless.cli.flags import build as flags
    from rootless.engine.build import outputs
    from rootless.engine.build.carried import places
    from rootless.engine.build.request import BuildRequest

    context, file = args[0], values.get("file", "")
    if not context:
        raise RlessError("the context is empty: name a directory", VERB.see_help())
    if context == file == "-":
        raise RlessError("the Dockerfile and the context cannot both be standard input")
    progress = values.get("progress", "auto")
    if values.get("quiet"):
        if progress not in ("auto", "quiet"):
            raise RlessError(f"--quiet and --progress {progress} contradict each other")
        progress = "quiet"
    elif progress == "auto" and os.environ.get("BUILDKIT_PROGRESS") in flags.PROGRESS:
        progress = os.environ["BUILDKIT_PROGRESS"]
    run_options = {name: values[name] for name in _SETTINGS if name in values}
    if "ulimits" in run_options:
        run_options["ulimits"] = list({limit[0]: limit for limit in values["ulimits"]}.values())
    if "devices" in run_options:
        given = run_options.pop("devices")  # a text is the name of one that CDI describes
        run_options["devices"] = [device for device in given if not isinstance(device, str)]
        run_options["cdi"] = [device for device in given if isinstance(device, str)]
    if values.get("network"):
        run_options["network"] = values["network"]
    call, call_format = values.get("call", ("", ""))
    if values.get("check"):
        if call not in ("", "check"):
            raise RlessError(f"--check and --call={call} contradict each other")
        call = "check"
    made = BuildRequest(
        context=context,
        file=file,
        tags=tuple(dict.fromkeys(values.get("tags", ()))),
        build_args=_build_args(values),
        labels=values.get("labels", {}),
        target=values.get("target", ""),
        platforms=_platforms(values),
        signature_policy=values.get("signature_policy"),
        pull=bool(values.get("pull")),
        no_cache=bool(values.get("no_cache")),
        no_cache_filter=tuple(one for some in values.get("no_cache_filter", ()) for one in some),
        cache_from=tuple(values.get("cache_from", ())),
        cache_to=tuple(values.get("cache_to", ())),
        build_contexts=dict(values.get("build_contexts", ())),
        secrets=tuple({secret.id: secret for secret in values.get("secrets", ())}.values()),
        ssh=tuple({agent.id: agent for agent in values.get("ssh", ())}.values()),
        outputs=tuple(values.get("outputs", ())),
        push=bool(values.get("push")),
        load=bool(values.get("load")),
        annotations=tuple(values.get("annotations", ())),
        squash=bool(values.get("squash")) or not values.get("layers", True),
        iidfile=values.get("iidfile", ""),
        metadata_file=values.get("metadata_file", ""),
        progress=progress,
        allow=tuple(one for some in values.get("allow", ()) for one in some),
        call=call,
        call_format=call_format,
        jobs=values.get("jobs", 0),
        timeout=values.get("timeout", 0.0),
        userns=values.get("userns", "auto"),
        run_options=run_options,
    )
    made.epoch()  # refused before anything is done
    settings = made.run_settings()
    if settings.asks_limits():
        from rootless.engine import resources

        resources.check(settings)
    outputs.asked_for(made)
    places.parse_from(made.cache_from)
    places.parse_to(made.cache_to, made.build_args)
    return made


def _platforms(values: dict[str, Any]) -> tuple[str, ...]:
    """Return the platforms of --platform, each once: linux/amd64 and amd64 are the same."""
    from rootless.image.model.platforms import parse_platform

    found: dict[str, str] = {}
    for one in (one for some in values.get("platforms", ()) for one in some):
        found.setdefault(str(parse_platform(one)), one)
    return tuple(found.values())


def _build_args(values: dict[str, Any]) -> dict[str, str]:
    """Return the values of --build-arg; SOURCE_DATE_EPOCH of the environment is one of them."""
    found = {}
    for name, given in [("SOURCE_DATE_EPOCH", None), *values.get("build_args", ())]:
        value = os.environ.get(name) if given is None else given
        if value is not None:
            found[name] = value
    return found
