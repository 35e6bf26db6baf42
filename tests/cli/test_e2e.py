"""The command line as a user meets it: help, versions, images, and flags before the verb."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.lib.product import Product, own_rless, probe_image, rless, shared_product

__all__ = ["own_rless", "rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def test_version_and_help_are_printed(rless: Product) -> None:
    version = rless("--version").expect().out
    assert version.startswith("rless ")
    assert rless("-v").expect().out == version
    assert version.split()[1] in rless("version").expect().out
    assert rless().expect().out == rless("--help").expect().out
    for verb in ("run", "ps", "rm", "stop", "kill", "logs", "wait", "pull", "images", "rmi",
                 "doctor", "unshare", "version"):  # fmt: skip
        assert verb in rless("--help").out
        assert rless(verb, "--help").expect().out.startswith("Usage: rless")


def test_help_needs_no_storage(own_rless: Product) -> None:
    rless = own_rless
    for words in (("--help",), ("--version",), ("run", "--help"), ("version",)):
        rless(*words, env={"RLESS_STORAGE": "/proc/none", "HOME": None}).expect()


def test_image_is_pulled_used_and_removed(own_rless: Product) -> None:
    rless = own_rless
    image = rless.add_image("life", probe_image())
    done = rless("pull", image).expect()
    identity = done.out.strip() or rless("images", "-q").out.strip()
    assert rless("images", "-q", "--no-trunc").expect().out.strip().startswith("sha256:")
    assert identity
    row = json.loads(rless("images", "--format", "json").expect().lines()[0])
    assert row["Size"]
    # A container holds it.
    rless("run", "--name", "user", "--network=none", image, "true").expect()
    assert rless("rmi", image).code == 1
    rless("rm", "user").expect()
    rless("rmi", image).expect()
    assert rless("images", "-q").expect().out == ""
    assert not [path for path in (rless.storage / "layers").glob("*/*") if path.is_dir()]
    rless.run("--pull=never", "true", image=image).expect(125).one_line_error()


def test_storage_flag_selects_the_storage(own_rless: Product) -> None:
    rless = own_rless
    other = rless.base / "other"
    rless("--storage", str(other), "ps", env={"RLESS_STORAGE": None}).expect()
    assert (other / "containers").is_dir()
    assert not rless.storage.exists()


def test_flags_after_the_image_belong_to_the_command(rless: Product) -> None:
    done = rless.run("", "echo", "--rm", "-it", "--", "--name=x").expect()
    assert done.out == "--rm -it -- --name=x\n"
    done = rless("run", "--rm", "--network=none", "--", rless.image, "echo", "a").expect()
    assert done.out == "a\n"


def test_short_flags_can_be_combined(rless: Product) -> None:
    done = rless("run", "-qi", "--rm", "--network=none", "-eA=1", "-w/srv", rless.image, "sh", "-c",
                 "echo $A $PWD; cat", stdin=b"in")  # fmt: skip
    assert done.expect().out == "1 /srv\nin"


def test_debug_prints_the_timeline(rless: Product) -> None:
    done = rless.run("--debug", "true").expect()
    for step in ("image", "container", "user namespace", "init", "network", "monitor"):
        assert f" {step}\n" in done.err


def test_unwritable_output_is_an_error(rless: Product) -> None:
    with open("/dev/full", "wb") as full:
        done = rless("images", stdout=full.fileno()).expect(1)
    assert "No space left on device" in done.one_line_error()
    argv = " ".join(f"'{word}'" for word in rless.argv("run", "--help"))
    done_sh = subprocess.run(["bash", "-c", f"{argv} | head -c 1; echo ${{PIPESTATUS[0]}}"],
                             env=rless.environment(), capture_output=True, text=True)  # fmt: skip
    assert done_sh.stdout.lstrip("U").strip() in ("0", "141")
    assert done_sh.stderr == ""


def test_detached_run_reports_an_unwritable_output(rless: Product) -> None:
    """The container runs; the command says that its id could not be told."""
    with open("/dev/full", "wb") as full:
        done = rless("run", "-d", "--name", "quiet", "--network=none", rless.image, "sleep", "60",
                     stdout=full.fileno())  # fmt: skip
    if done.code:
        done.one_line_error()
    rless("rm", "-f", "quiet")


def test_doctor_checks_the_host(rless: Product) -> None:
    done = rless("doctor")
    assert done.code == 0, done
    facts = json.loads(rless("doctor", "--json").expect().out)
    assert facts
