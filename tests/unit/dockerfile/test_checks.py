"""The checks of `build --check`, each with a file that it finds something in."""

from __future__ import annotations

import pytest

from rootless.dockerfile import parse
from rootless.dockerfile.checks import check, check_copied, check_platform, looks_secret
from rootless.dockerfile.ignore import IgnoreRules

PLATFORM = {"TARGETPLATFORM": "linux/amd64", "TARGETARCH": "amd64"}


def rules(text: str) -> list[tuple[str, int]]:
    found = check(parse(text), {}, PLATFORM)
    return [(finding.rule, finding.line) for finding in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM scratch AS Base", [("StageNameCasing", 1)]),
        ("FROM scratch as base", [("FromAsCasing", 1)]),
        ("FROM scratch As base", [("FromAsCasing", 1)]),
        ("from scratch as base", []),
        ("FROM scratch\nRUN a \\\n\n b", [("NoEmptyContinuation", 2)]),
        ("FROM scratch\nrun a\nRun b", [("ConsistentInstructionCasing", n) for n in (2, 3)]),
        ("from scratch\nrun a\nRUN b", [("ConsistentInstructionCasing", 3)]),
        ("FROM scratch AS a\nFROM scratch AS a", [("DuplicateStageName", 2)]),
        ("FROM scratch AS context", [("ReservedStageName", 1)]),
        ("FROM scratch\nCMD a", [("JSONArgsRecommended", 2)]),
        ('FROM scratch\nSHELL ["a"]\nENTRYPOINT a', []),
        ('FROM scratch AS a\nSHELL ["a"]\nFROM a\nENTRYPOINT a', []),
        ("FROM scratch\nMAINTAINER me", [("MaintainerDeprecated", 2)]),
        ("ARG VERSION=1\nFROM a:${VERSIO}x", [("UndefinedArgInFrom", 2)]),
        ("FROM scratch\nWORKDIR a\nWORKDIR b", [("WorkdirRelativePath", 2)]),
        ("FROM scratch\nWORKDIR /a\nWORKDIR b", []),
        ("FROM scratch\nCOPY $x /", [("UndefinedVar", 2)]),
        ("FROM scratch\nARG x\nCOPY $x$HTTP_PROXY /", []),
        ("FROM image\nCOPY $x /", []),
        ("FROM scratch AS a\nENV x=1\nFROM a\nCOPY $x $y", [("UndefinedVar", 4)]),
        ('FROM scratch\nCMD ["a"]\nCMD ["b"]', [("MultipleInstructionsDisallowed", 2)]),
        ("FROM scratch\nENV a b\nLABEL a b", [("LegacyKeyValueFormat", n) for n in (2, 3)]),
        ("FROM --platform=$TARGETPLATFORM a", [("RedundantTargetPlatform", 1)]),
        ("FROM --platform=linux/amd64 a", [("FromPlatformFlagConstDisallowed", 1)]),
        ("FROM --platform=linux/amd64 a AS build_amd64", []),
        ("FROM scratch\nARG API_KEY\nENV TOKEN=1", [("SecretsUsedInArgOrEnv", n) for n in (2, 3)]),
        ("FROM scratch\nENV KEY_FILE=1 KEYBOARD=2", []),
        ("ARG TAG\nFROM a:${TAG}", [("InvalidDefaultArgInFrom", 2)]),
        ("ARG TAG\nFROM a:${TAG:-1}", []),
        ("FROM scratch\nEXPOSE 80/TCP", [("ExposeProtoCasing", 2)]),
        ("FROM scratch\nEXPOSE 127.0.0.1:80:80", [("ExposeInvalidFormat", 2)]),
        ("FROM scratch\nENV a=1\nARG a=2", [("ArgOverridesEnv", 3)]),
        ("FROM scratch\nENV a=1\nARG a", []),
        ("FROM a\nCOPY . /app/\nRUN id && chown -R u:u /app", [("ChownAfterCopy", 3)]),
        ("FROM a\nWORKDIR /w\nADD . x\nRUN chown -vR u .", [("ChownAfterCopy", 4)]),
        ("FROM a\nCOPY --chown=u . /app\nRUN chown -R u /app", []),
        ("FROM a\nCOPY . /app\nRUN chown -R u /app/cache /apps; chown u /app", []),
        ("# other words\nFROM scratch AS a", []),
        (
            "# check=experimental=all\n\n# other words\nFROM scratch AS a",
            [("InvalidDefinitionDescription", 4)],
        ),
        ("# check=experimental=all\n\n# a is this\nFROM scratch AS a", []),
        ("# check=experimental=all\n\n# other words\n\nFROM scratch AS a", []),
        ("# check=skip=StageNameCasing\nFROM scratch AS Base", []),
        ("# check=skip=all\nFROM scratch AS Base", []),
        ("# check=skip=X,FromAsCasing\nFROM scratch as Base", [("StageNameCasing", 2)]),
        ("FROM scratch\nCOPY ${x?} /", []),
    ],
)
def test_findings(text: str, expected: list[tuple[str, int]]) -> None:
    assert rules(text) == expected


def test_near_names_are_proposed() -> None:
    (finding,) = check(parse("FROM scratch\nENV HOMEDIR=/a\nCOPY x $HOMEDI"))
    assert finding.message == "Usage of undefined variable '$HOMEDI' (did you mean $HOMEDIR?)"


def test_known_environment_of_a_base() -> None:
    dockerfile = parse("FROM image\nCOPY $x $y")
    assert [f.message for f in check(dockerfile, envs={0: ["x=1"]})] == [
        "Usage of undefined variable '$y'"
    ]


def test_ignored_sources() -> None:
    dockerfile = parse(
        "FROM a\nCOPY --from=b x /\nCOPY ./x y /\nADD x/z http://e.org/x $x /\nCOPY . /"
    )
    found = check_copied(dockerfile, IgnoreRules(["x"]))
    assert [(f.rule, f.line) for f in found] == [("CopyIgnoredFile", 3), ("CopyIgnoredFile", 4)]
    assert check_copied(dockerfile, IgnoreRules(["x", "!x/y"])) == []


def test_platform_of_a_base() -> None:
    dockerfile = parse("FROM a")
    (stage,) = dockerfile.stages
    assert check_platform(dockerfile, stage, "linux/arm64", "linux/arm64/v8") == []
    (finding,) = check_platform(dockerfile, stage, "linux/amd64", "linux/arm64")
    assert finding.rule == "InvalidBaseImagePlatform"


def test_names_that_look_secret() -> None:
    assert looks_secret("github_token") and looks_secret("AUTH")
    assert not looks_secret("TOKENS") and not looks_secret("PUBLIC_KEY")
