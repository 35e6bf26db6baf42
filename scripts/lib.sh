# shellcheck shell=bash disable=SC2034,SC2164
# Functions that quickstart, test and check share; sourced by them.
# Callers set: set -euo pipefail. After this, the current directory is the source tree.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
TREE=$PWD
PATH=$PATH:/usr/sbin:/sbin # mke2fs is there, which a user's PATH lacks
TEST_USER=${RLESS_TEST_USER:-rless-test}

say() { printf '%s\n' "$*" >&2; }
die() {
    say "$(basename "$0"): $*"
    exit 1
}
is_root() { [ "$(id -u)" = 0 ]; }

# Print the column of this distribution in the table of rootless/host/packages.py.
distribution() {
    local ID='' ID_LIKE='' word
    eval "$(grep -E '^(ID|ID_LIKE)=' /etc/os-release 2>/dev/null || true)"
    for word in $ID $ID_LIKE; do
        case $word in
        fedora | rhel | centos) echo Fedora && return ;;
        suse | sles | opensuse*) echo openSUSE && return ;;
        arch) echo Arch && return ;;
        alpine) echo Alpine && return ;;
        esac
    done
    echo Debian
}

# Print the names that a distribution gives to these packages of Debian: COLUMN NAME...
package_names() {
    local column=$1 name
    shift
    for name in "$@"; do
        case $name in libsubid*) name=libsubid4 ;; esac
        sed -n '/^TABLE/,/^"""$/p' rootless/host/packages.py | awk -v column="$column" -v name="$name" '
            $1 == "Debian" { for (i = 1; i <= NF; i++) if ($i == column) at = i }
            $1 == name && $at != "-" { gsub(",", "\n", $at); print $at }'
    done
}

# Print the path of a Python that every user can run: the system's before one of pyenv or conda.
find_python() {
    local candidate
    for candidate in /usr/bin/python3 /usr/bin/python3.1[0-9] /usr/local/bin/python3 \
        "$(command -v python3 || true)"; do
        [ -x "$candidate" ] || continue
        "$candidate" -I -c 'import sys; sys.version_info >= (3, 10) or sys.exit(1)
print(sys.executable)' 2>/dev/null && return
    done
    case $(distribution) in
    Fedora) die "Python 3.10 or later was not found: sudo dnf install python3.11" ;;
    openSUSE) die "Python 3.10 or later was not found: sudo zypper install python311" ;;
    esac
    die "Python 3.10 or later was not found"
}

# Print which of the packages are missing; "a|b" means the first that this release knows.
missing_packages() {
    local wanted name found installed alternatives=("${@//|/ }")
    # shellcheck disable=SC2068 # split at spaces
    installed=$(dpkg-query -Wf '${db:Status-Status} ${Package}\n' ${alternatives[@]} 2>/dev/null || true)
    for wanted in "$@"; do
        found=
        for name in ${wanted//|/ }; do
            [[ $'\n'$installed$'\n' != *$'\n'"installed $name"$'\n'* ]] || continue 2
        done
        for name in ${wanted//|/ }; do
            [ -z "$found" ] && apt-cache show "$name" >/dev/null 2>&1 && found=$name
        done
        echo "${found:-${wanted%%|*}}"
    done
}

# Show the lines that begin with one of these words (a|b), of the long output of an installer.
progress() { sed -unE "s/^ *(($1) .*)/    \1/p" >&2; }

# The same on a distribution without apt: install by its own program as root, else name them.
install_elsewhere() {
    local here names install
    here=$(distribution)
    names=$(package_names "$here" "$@" | sort -u)
    case $here in
    Fedora) install='dnf install -y' ;;
    openSUSE) install='zypper --non-interactive install' ;;
    Arch) install='pacman -S --needed --noconfirm' ;;
    Alpine) install='apk add' ;;
    *) install= ;;
    esac
    if [ -z "$install" ]; then
        say "this distribution is not known here: rless doctor names what is missing"
    elif is_root; then
        say "installing system packages: ${names//$'\n'/ }"
        # shellcheck disable=SC2086 # split at spaces
        $install $names >&2 || say "some packages could not be installed (going on)"
    else
        say "system packages that rless uses: sudo $install ${names//$'\n'/ }"
    fi
}

# Install the packages that are missing. No root, no apt, or one that this release does not have:
# say so and go on, the parts that need it say more.
install_packages() {
    local missing name known=()
    command -v apt-get >/dev/null || {
        install_elsewhere "$@"
        return 0
    }
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    if ! is_root; then
        say "missing system packages (going on without them): ${missing//$'\n'/ }"
        return 0
    fi
    say "installing system packages: ${missing//$'\n'/ }"
    apt-get update -qq || say "apt-get update failed: trying with the old lists"
    for name in $(missing_packages "$@"); do
        if apt-cache show "$name" >/dev/null 2>&1; then known+=("$name"); else
            say "this release has no package $name (going on without it)"
        fi
    done
    [ ${#known[@]} -gt 0 ] || return 0
    local install=(apt-get install -qq -y --no-install-recommends "${known[@]}")
    local log
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    "${install[@]}" 2>&1 </dev/null | tee "$log" | progress 'Setting up' ||
        { sleep 5 && "${install[@]}" 2>&1 </dev/null | tee "$log" | progress 'Setting up'; } ||
        { tail -n 5 "$log" >&2 && say "some packages could not be installed (going on)"; }
    rm -f "$log"
}

RUN_PACKAGES=(python3-venv uidmap 'libsubid5|libsubid4t64|libsubid4' libseccomp2 passt fuse-overlayfs)
command -v cc gcc clang >/dev/null || RUN_PACKAGES+=(gcc)
# What the helper programs are linked with, and the headers of Linux.
RUN_PACKAGES+=(musl-tools libc6-dev)

# Print one word that changes with these files and directories.
hash_of() {
    find "$@" -type f ! -path '*/__pycache__/*' ! -path 'rootless/bin/*' -print0 | LC_ALL=C sort -z |
        xargs -0 sha256sum | sha256sum | cut -c 1-32
}

# Make .venv in the current directory, unless it is there and nothing that it was made from has
# changed. Argument: "" installs the project as users do, which starts fastest; "[dev]" installs it
# editable, with what the tests need. The latter does for both.
make_venv() {
    local python version state extra=$1
    python=$(find_python)
    version=$("$python" -VV | tr '\n' ' ')
    state="$version $PWD $(hash_of pyproject.toml setup.py helpers)"
    # The helper programs of an editable install lie in the tree, which may be another copy by now.
    if [ "$(cat .venv/.made-from-dev 2>/dev/null)" = "$state" ] && [ -e rootless/bin ]; then return; fi
    [ -n "$extra" ] || state+=" $(hash_of rootless)"
    if [ "$(cat .venv/.made-from 2>/dev/null)" = "$state" ]; then return; fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python cannot make virtual environments: install the package python3-venv"
    say "making .venv with $python"
    rm -f .venv/.made-from*
    [ "$(.venv/bin/python3 -VV 2>&1 | tr '\n' ' ')" = "$version" ] &&
        .venv/bin/python3 -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
    local pip=(.venv/bin/python3 -m pip install --progress-bar off --disable-pip-version-check)
    local steps='Collecting|Building wheels?|Installing collected'
    if [ -n "$extra" ]; then
        "${pip[@]}" --editable ".$extra" | progress "$steps"
        .venv/bin/python3 -m compileall -q rootless || true
    else
        "${pip[@]}" . | progress "$steps"
    fi
    printf '%s' "$state" >".venv/.made-from${extra:+-dev}"
}
