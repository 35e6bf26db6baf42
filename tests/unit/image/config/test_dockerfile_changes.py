"""`--change`: the config that Docker's builder would make of the same instruction."""

from __future__ import annotations

from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.config.dockerfile_changes import apply

ENV = {"Env": ["PATH=/bin", "NAME=v al"]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ('CMD ["a", "b c"]', {"Cmd": ["a", "b c"]}),
        ("CMD echo $X | cat", {"Cmd": ["/bin/sh", "-c", "echo $X | cat"]}),
        ("cmd [not json", {"Cmd": ["/bin/sh", "-c", "[not json"]}),
        ("CMD []", {"Cmd": []}),
        ("ENTRYPOINT []", {"Entrypoint": None}),
        ('ENTRYPOINT ["/x"]', {"Entrypoint": ["/x"]}),
        ("ENV A=b C='d e' F=\"g $NAME\"", {"Env": [*ENV["Env"], "A=b", "C=d e", "F=g v al"]}),
        ("ENV A b  c", {"Env": [*ENV["Env"], "A=b  c"]}),
        ("ENV NAME=${NAME}x", {"Env": ["PATH=/bin", "NAME=v alx"]}),
        (r"ENV A=\$NAME B=a\ b", {"Env": [*ENV["Env"], "A=$NAME", "B=a b"]}),
        ("ENV A=${NO:-x${NAME}y}", {"Env": [*ENV["Env"], "A=xv aly"]}),
        ("ENV A=${NAME:+set} B=$", {"Env": [*ENV["Env"], "A=set", "B=$"]}),
        ("ENV A=1 \\\n B=2", {"Env": [*ENV["Env"], "A=1", "B=2"]}),
        ("EXPOSE 80 90-91/UDP", {"ExposedPorts": {"80/tcp": {}, "90/udp": {}, "91/udp": {}}}),
        ("LABEL a=b \"c d\"='e f'", {"Labels": {"a": "b", "c d": "e f"}}),
        ("ONBUILD RUN make", {"OnBuild": ["RUN make"]}),
        ("STOPSIGNAL SIGKILL", {"StopSignal": "SIGKILL"}),
        ("USER 5:6", {"User": "5:6"}),
        ('VOLUME ["/a", "/b c"]', {"Volumes": {"/a": {}, "/b c": {}}}),
        ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
        ("WORKDIR /a/../b", {"WorkingDir": "/b"}),
        ("WORKDIR x y", {"WorkingDir": "/x y"}),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        (
            "HEALTHCHECK --interval=1m30s --timeout=.5s --retries=2 CMD curl localhost",
            {
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "curl localhost"],
                    "Interval": 90 * 10**9,
                    "Timeout": 5 * 10**8,
                    "Retries": 2,
                }
            },
        ),
        ('HEALTHCHECK CMD ["x"]', {"Healthcheck": {"Test": ["CMD", "x"]}}),
        ("# a comment\nUSER me", {"User": "me"}),
    ],
)
def test_single_instruction_is_applied(change: str, expected: dict[str, Any]) -> None:
    assert apply(ENV, [change]) == {**ENV, **expected}


def test_instructions_apply_in_order_to_a_copy() -> None:
    before = {"Labels": {"a": "1"}, "WorkingDir": "/x", "Cmd": ["old"]}
    after = apply(before, ["WORKDIR y", "LABEL a=2", "LABEL b=3\nUSER u"])
    assert after == {
        "Labels": {"a": "2", "b": "3"},
        "WorkingDir": "/x/y",
        "Cmd": ["old"],
        "User": "u",
    }
    assert before == {"Labels": {"a": "1"}, "WorkingDir": "/x", "Cmd": ["old"]}


def test_new_entrypoint_clears_the_command() -> None:
    assert apply({"Cmd": ["old"]}, ['ENTRYPOINT ["e"]']) == {"Entrypoint": ["e"]}
    both = {"Entrypoint": ["e"], "Cmd": ["c"]}
    assert apply({"Cmd": ["old"]}, ['CMD ["c"]', 'ENTRYPOINT ["e"]']) == both


def test_shell_form_uses_the_shell_of_the_image() -> None:
    shell = {"Shell": ["/bin/bash", "-ec"]}
    assert apply(shell, ["CMD x"])["Cmd"] == ["/bin/bash", "-ec", "x"]


@pytest.mark.parametrize(
    "change",
    [
        "RUN make",
        "FROM x",
        "COPY a b",
        "\x1b[31m x",
        "CMD",
        "ENV A",
        "ENV A=b C",
        "ENV =b",
        "ENV A='b",
        "ENV A=${B",
        "ENV A=${}",
        "ENV A=${B?c}",
        "EXPOSE 0",
        "EXPOSE 80/http",
        "EXPOSE 90-80",
        "EXPOSE 70000",
        "STOPSIGNAL SIGNOTHING",
        "USER a b",
        "ONBUILD ONBUILD RUN x",
        "ONBUILD FROM x",
        "HEALTHCHECK",
        "HEALTHCHECK CMD",
        "HEALTHCHECK --interval=5 CMD x",
        "HEALTHCHECK --interval=1us CMD x",
        "HEALTHCHECK --retries=x CMD x",
        "HEALTHCHECK --what=1s CMD x",
        'VOLUME [""]',
    ],
)
def test_mistakes_are_refused_in_one_line(change: str) -> None:
    with pytest.raises(RlessError) as caught:
        apply(ENV, [change])
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == 1
