"""From a Dockerfile to steps: variables, stages, users, directories, ONBUILD, history."""

from __future__ import annotations

from typing import Any

import pytest

from rootless.dockerfile import DockerfileError, parse
from rootless.dockerfile.ignore import IgnoreRules
from rootless.engine.build import plan
from rootless.engine.build.steps import Base, CopyStep, Plan, RunStep, WorkdirStep
from rootless.errors import RlessError

_SYNTAX = "docker/dockerfile:1"
IMAGES: dict[str, dict[str, Any]] = {
    "plain": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
    "trigger": {"OnBuild": ["COPY --from=tool /t /t", "RUN made"], "User": "7"},
}


def find_base(name: str, platform: str) -> Base:
    if name not in IMAGES:
        raise AssertionError(f"{name} was asked for")
    return Base(name, f"sha256:{name}", "", {"config": IMAGES[name]}, (f"sha256:{name}",))


def made(text: str, **options: Any) -> Plan:
    return plan.make(parse(text), plan.Options(**options), find_base)


def test_stages_that_the_target_does_not_need_are_left_out() -> None:
    text = "FROM unknown AS a\nRUN x\nFROM plain AS b\nRUN y\nFROM plain\nCOPY --from=b /y /y\n"
    found = made(text)
    assert [stage.name for stage in found.stages] == ["b", "stage-2"]
    copy = found.stages[1].steps[0]
    assert isinstance(copy, CopyStep)
    assert (copy.origin.kind, copy.origin.stage) == ("stage", 0)
    assert found.stages[1].needs() == {0}


def test_run_sees_env_and_args_from_before_it() -> None:
    text = (
        "ARG g=1\nFROM plain\nARG g\nARG a=x\nENV e=$a\nRUN first\nENV a=over\nRUN second\n"
    )  # fmt: skip
    first, second = made(text, build_args={"a": "given"}).stages[0].steps
    assert isinstance(first, RunStep) and isinstance(second, RunStep)
    assert set(first.env) == {"PATH=/bin", "g=1", "a=given", "e=given"}
    assert "a=over" in second.env
    assert first.args == ("/bin/sh", "-c", "first")
    assert first.created_by == "RUN |2 g=1 a=given /bin/sh -c first # buildkit"


def test_args_are_not_in_the_images_environment() -> None:
    stage = made("FROM plain\nARG secret=1\nENV kept=2\n").stages[0]
    assert stage.config["Env"] == ["PATH=/bin", "kept=2"]
    assert stage.steps == ()


def test_user_and_directory_hold_from_their_line_on() -> None:
    text = "FROM plain\nRUN a\nUSER 5:6\nWORKDIR /srv\nWORKDIR x\nRUN b\nCOPY f .\nCOPY g /h/\n"
    steps = made(text).stages[0].steps
    assert [(step.user, step.directory) for step in steps if isinstance(step, RunStep)] == [
        ("", "/"),
        ("5:6", "/srv/x"),
    ]
    assert [step.directory for step in steps if isinstance(step, WorkdirStep)] == ["/srv", "/srv/x"]
    copies = [step for step in steps if isinstance(step, CopyStep)]
    assert [copy.destination for copy in copies] == ["/srv/x/", "/h/"]
    assert [step.number for step in steps] == [1, 2, 3, 4, 5, 6]


def test_triggers_of_the_base_run_first_and_can_name_stages() -> None:
    found = made("FROM plain AS tool\nRUN make\nFROM trigger\nRUN own\n")
    assert [stage.name for stage in found.stages] == ["tool", "stage-1"]
    copy, trigger, own = found.stages[1].steps
    assert isinstance(copy, CopyStep) and copy.origin.stage == 0
    assert isinstance(trigger, RunStep) and trigger.args[-1] == "made"
    assert isinstance(own, RunStep) and own.user == "7"
    assert "OnBuild" not in found.stages[1].config
    # They are shown as what they are, with the lines of FROM, which is all that this file has.
    assert trigger.text == "ONBUILD RUN made"
    assert [(step.line, step.end_line) for step in (copy, trigger, own)] == [(3, 3), (3, 3), (4, 4)]
    assert "ONBUILD" not in trigger.created_by


def test_onbuild_is_for_those_who_build_on_the_stage() -> None:
    found = made("FROM plain AS a\nONBUILD RUN later\nFROM a AS b\nRUN own\nFROM b\n")
    assert [stage.steps and [step.text for step in stage.steps] for stage in found.stages] == [
        (),
        ["ONBUILD RUN later", "RUN own"],
        (),
    ]
    assert made("FROM plain\nONBUILD RUN later\n").stages[0].config["OnBuild"] == ["RUN later"]


def test_history_has_a_line_for_each_instruction() -> None:
    stage = made("FROM plain\nARG a\nRUN x\nLABEL l=1\nWORKDIR /w\n").stages[0]
    assert [(entry.created_by, entry.step is not None) for entry in stage.history] == [
        ("ARG a", False),
        ("RUN |1 a= /bin/sh -c x # buildkit", True),
        ("LABEL l=1", False),
        ("WORKDIR /w", True),
    ]


def test_labels_of_the_command_line_are_for_the_target_alone() -> None:
    found = made("FROM plain AS a\nLABEL x=1\nFROM a\nLABEL y=2\n", labels={"y": "3", "z": "4"})
    assert found.stages[0].config["Labels"] == {"x": "1"}
    assert found.stages[1].config["Labels"] == {"x": "1", "y": "3", "z": "4"}


def test_build_context_hides_an_image() -> None:
    found = made("FROM gone\nCOPY --from=files /a /a\n", contexts={"gone": "plain", "files": ""})
    base = found.stages[0].base
    assert isinstance(base, Base) and base.name == "plain"
    copy = found.stages[0].steps[0]
    assert isinstance(copy, CopyStep)
    assert (copy.origin.kind, copy.origin.name) == ("context", "files")


def test_context_with_files_is_no_base() -> None:
    with pytest.raises(DockerfileError, match="line 1: FROM files: that build context has files"):
        made("FROM files\n", contexts={"files": ""})


@pytest.mark.parametrize("name", ["oci:/lay:1", "docker-archive:/a.tar", "oci-archive:x", "host:"])
def test_dockerfile_names_no_file_of_the_host(name: str) -> None:
    """Class 62: paths are for the command line only."""
    for text in (f"FROM {name}\n", f"FROM plain\nCOPY --from={name} / /\n"):
        with pytest.raises(DockerfileError, match="what is on this host"):
            made(text)
    made("FROM mine\n", contexts={"mine": "plain"})


def test_scratch_works_in_the_root() -> None:
    assert made("FROM scratch\n").stages[0].config["WorkingDir"] == "/"


def test_findings_of_the_checks_are_warnings_or_errors() -> None:
    text = "FROM plain\nMAINTAINER me\n"
    (warning,) = made(text).warnings
    assert warning.startswith("MaintainerDeprecated: ") and warning.endswith("(line 2)")
    with pytest.raises(DockerfileError, match="line 3: MaintainerDeprecated"):
        made(f"# check=error=true\n{text}")


def test_other_frontend_is_refused() -> None:
    made("FROM plain\n", build_args={"BUILDKIT_INLINE_CACHE": "1", "BUILDKIT_SYNTAX": _SYNTAX})
    with pytest.raises(RlessError, match="other/frontend"):
        made("FROM plain\n", build_args={"BUILDKIT_SYNTAX": "other/frontend"})


def test_unused_build_argument_is_a_warning() -> None:
    assert made("FROM plain\n", build_args={"x": "1", "HTTP_PROXY": "p"}).warnings == (
        "--build-arg x: no ARG of the Dockerfile takes it",
    )


def test_warnings_name_ignored_sources_and_foreign_bases() -> None:
    def find(name: str, platform: str) -> Base:
        found = {"os": "linux", "architecture": "arm64", "variant": "v8"}
        return Base(name, "sha256:x", "", {"config": {}}, (), found)

    options = plan.Options(
        ignored=IgnoreRules.parse(b"*.o"), predefined={"TARGETPLATFORM": "linux/amd64"}
    )
    found = plan.make(parse("FROM other\nCOPY a.o b.c /x/\n"), options, find).warnings
    assert [text.partition(":")[0] for text in found] == [
        "InvalidBaseImagePlatform",
        "CopyIgnoredFile",
    ]
    assert "'linux/arm64/v8', expected 'linux/amd64'" in found[0]


def test_build_argument_replaces_the_check_directive() -> None:
    text = "# check=skip=all\nFROM plain AS Big\n"
    assert made(text).warnings == ()
    (warning,) = made(text, build_args={"BUILDKIT_DOCKERFILE_CHECK": "skip=FromAsCasing"}).warnings
    assert warning.startswith("StageNameCasing")
    with pytest.raises(DockerfileError, match="StageNameCasing"):
        made(text, build_args={"BUILDKIT_DOCKERFILE_CHECK": "error=true"})
    with pytest.raises(DockerfileError, match="no option"):
        made(text, build_args={"BUILDKIT_DOCKERFILE_CHECK": "nonsense"})


def test_plans_of_several_platforms_share_what_is_the_same() -> None:
    text = (
        "FROM --platform=linux/amd64 plain AS tool\nRUN make\n"
        "FROM tool AS both\nRUN more\n"
        "FROM plain\nARG TARGETARCH\nRUN for $TARGETARCH\nCOPY --from=both /x /\n"
        "COPY --from=plain /y /\n"
    )
    joined = plan.join(
        [made(text, predefined={"TARGETARCH": arch, "TARGETPLATFORM": f"linux/{arch}"},
              platform=f"linux/{arch}") for arch in ("amd64", "arm64")]
    )  # fmt: skip
    assert [stage.index for stage in joined.stages] == [0, 1, 2, 3]
    assert [stage.name for stage in joined.stages] == ["tool", "both", "stage-2", "stage-2"]
    assert joined.stages[1].base == 0
    first, second = joined.targets
    assert (first.index, second.index) == (2, 3)
    for target in joined.targets:
        assert target.steps[1].origins_of()[0].stage == 1
        (image,) = target.steps[2].origins_of()
        assert target.platform in image.name and image.name in joined.images
