"""`rename` of running and ended containers."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from rootless.engine.state.container import this_process
from tests.lib.life import facts, row
from tests.lib.product import Product, python_launcher, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def test_running_and_ended_containers_are_renamed(rless: Product) -> None:
    made = rless.detach("before", "", "sleep", "600")
    assert rless("rename", "before", "after").expect().out == ""
    assert row(rless, "after")["State"] == "running"
    assert facts(rless, made)["name"] == "after"
    assert os.listdir(rless.storage / "names") == ["after"]
    rless("stop", "-t", "0", "after").expect()
    rless("rename", made[:12], "third").expect()
    assert "no such container" in rless("rm", "after").expect(1).err
    rless.detach("after", "", "true")  # the name is free
    rless("wait", "after").expect()
    rless("rm", "third", "after").expect()


def test_automatic_removal_frees_the_new_name(rless: Product) -> None:
    rless.detach("old", "--rm", "sleep", "600")
    rless("rename", "old", "new").expect()
    rless("kill", "new").expect()
    wait_for(lambda: not os.listdir(rless.storage / "names"), "the name")


def test_wrong_names_are_refused(rless: Product) -> None:
    rless.detach("one", "", "sleep", "600")
    rless.detach("two", "", "sleep", "600")
    assert "already in use" in rless("rename", "one", "two").expect(1).one_line_error()
    for name in ("", "a/b", "x", "\x1b[2J"):
        rless("rename", "one", name).expect(1).one_line_error()
    assert "already" in rless("rename", "one", "one").expect(1).one_line_error()
    assert "no such container" in rless("rename", "none", "x1").expect(1).one_line_error()
    rless("rename", "one").expect(125).one_line_error()
    assert sorted(os.listdir(rless.storage / "names")) == ["one", "two"]
    rless("rm", "-f", "one", "two").expect()


def test_taken_name_is_refused(rless: Product) -> None:
    rless.detach("left", "", "sleep", "600")
    rless.detach("right", "", "sleep", "600")
    both = [rless.start("rename", name, "wanted") for name in ("left", "right")]
    assert sorted(process.wait(20) == 0 for process in both) == [False, True]
    assert len(os.listdir(rless.storage / "names")) == 2
    rless("rm", "-f", *rless.containers()).expect()


@pytest.mark.parametrize(
    ("call", "argument", "name"),
    [
        ("symlink", "names/new", "old"),
        ("rename", "container.json", "new"),
        ("unlink", "names/old", "new"),
    ],
)
def test_killed_rename_leaves_one_name(rless: Product, call: str, argument: str, name: str) -> None:
    """It has one name, whenever the command is killed; the next one takes the other away."""
    rless.detach("old", "", "sleep", "600")
    kill = (
        "import os\n"
        f"real = os.{call}\n"
        "def fatal(*words, **more):\n"
        "    real(*words, **more)\n"
        f"    if str(words[-1]).endswith({argument!r}): os.kill(os.getpid(), 9)\n"
        f"os.{call} = fatal\n"
    )
    words = list(python_launcher())
    place = words.index("-c") + 1
    words[place] = kill + words[place]
    done = subprocess.run([*words, "rename", "old", "new"], env=rless.environment(), check=False)
    assert done.returncode == -9
    assert any(entry.startswith("change-") for entry in os.listdir(rless.live))
    assert row(rless, name)["State"] == "running"
    assert os.listdir(rless.storage / "names") == [name]
    rless("rename", name, "third").expect()
    rless("rm", "-f", "third").expect()


def test_leftovers_of_a_killed_update_do_not_prevent_a_rename(rless: Product) -> None:
    made = rless.detach("old", "", "sleep", "600")
    note = rless.live / f"change-{made}"
    note.write_text('{"owner": [1, 1], "names": ["old", "new"]}')
    os.symlink(made, rless.storage / "names" / "new")
    rless("update", "--restart", "always", "old").expect()
    assert not note.exists()
    assert os.listdir(rless.storage / "names") == ["old"]
    note.write_text(f'{{"owner": {json.dumps(this_process())}, "names": []}}')
    assert "another command" in rless("update", "--restart", "no", "old").expect(1).one_line_error()
    note.unlink()
    rless("rm", "-f", "old").expect()


def test_concurrent_renames_leave_one_name(rless: Product) -> None:
    rless.detach("start", "", "sleep", "600")
    made = rless.containers()[0]
    renames = [rless.start("rename", made, f"name{number}") for number in range(8)]
    results = [process.communicate(timeout=30) for process in renames]
    assert 0 in [process.returncode for process in renames]
    for process, (_, err) in zip(renames, results, strict=True):
        assert process.returncode == 0 or b"just now" in err or b"another command" in err, err
    assert os.listdir(rless.storage / "names") == [row(rless, facts(rless, made)["name"])["Names"]]
    rless("rm", "-f", made).expect()


def test_rename_races_with_removal(rless: Product) -> None:
    for _ in range(5):
        rless.detach("going", "", "true")
        both = [rless.start("rename", "going", "gone"), rless.start("rm", "-f", "going")]
        for process in both:
            process.communicate(timeout=30)
        rless("rm", "-f", *rless.containers())
        assert os.listdir(rless.storage / "names") == []
