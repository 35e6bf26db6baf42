"""What a Dockerfile offers: targets, arguments, secrets, agents, caches."""

from __future__ import annotations

from rootless.dockerfile import parse
from rootless.dockerfile.outline import outline, targets

TEXT = """\
# VERSION of the tool
ARG VERSION=1
# tool makes it
FROM scratch AS tool
ARG VERSION
ARG PLAIN
RUN --mount=type=secret,id=key,required --mount=type=secret,id=key make
FROM scratch AS unused
RUN --mount=type=secret,id=other x
FROM scratch
COPY --from=tool /x /
ENV where=/c
RUN --mount=type=ssh --mount=type=cache,target=$where/d y
"""


def test_targets_are_in_the_order_of_the_file() -> None:
    found = targets(parse(TEXT))
    assert [entry.get("name") for entry in found] == ["tool", "unused", None]
    assert [entry.get("default") for entry in found] == [None, None, True]
    assert found[0]["description"] == "makes it"
    assert found[0]["location"]["ranges"][0]["start"] == {"line": 4}


def test_outline_has_what_the_stages_take_that_are_needed() -> None:
    dockerfile = parse(TEXT)
    found = outline(dockerfile, dockerfile.target(), {"PLAIN": "given"}, {})
    first, second = found["args"]
    assert (first["name"], first["value"], first["description"]) == ("VERSION", "1", "of the tool")
    assert (second["name"], second["value"]) == ("PLAIN", "given")
    assert [(one["name"], one["required"]) for one in found["secrets"]] == [("key", True)]
    assert [one["name"] for one in found["ssh"]] == ["default"]
    assert [one["ID"] for one in found["cache"]] == ["/c/d"]


def test_outline_of_another_target() -> None:
    dockerfile = parse(TEXT)
    found = outline(dockerfile, dockerfile.target("UNUSED"), {}, {})
    assert found["name"] == "unused"
    assert [one["name"] for one in found["secrets"]] == ["other"]
