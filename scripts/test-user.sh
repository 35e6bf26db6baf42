# shellcheck shell=bash disable=SC2034,SC2164
# As root: prepare an ordinary user that the tests run as; sourced after lib.sh.
#
# Afterwards `as_user` runs a command in the current directory: started by root, as rless-test, in
# a copy of the tree in its home, which it can read wherever the checkout is; else as it is.

HOME_OF_USER=/home/$TEST_USER

if ! is_root; then
    as_user() { "$@"; }
    return 0
fi

# A user with subordinate ids, and one without them.
add_user() { # NAME
    id "$1" >/dev/null 2>&1 || useradd --create-home --home-dir "/home/$1" --shell /bin/bash "$1"
}

grant_ids() { # NAME KIND
    grep -q "^$1:" "/etc/sub$2" 2>/dev/null && return
    local first
    first=$(awk -F: '$2 + $3 > m { m = $2 + $3 } END { print m < 100000 ? 100000 : m }' \
        "/etc/sub$2" /dev/null)
    echo "$1:$first:65536" >>"/etc/sub$2"
}

add_user "$TEST_USER"
grant_ids "$TEST_USER" uid
grant_ids "$TEST_USER" gid
add_user rless-nosub
for file in /etc/subuid /etc/subgid; do
    ! grep -q '^rless-nosub:' $file || sed -i '/^rless-nosub:/d' $file
done

for device in /dev/fuse /dev/net/tun; do
    [ ! -e $device ] || chmod 666 $device || true
done

# One run at a time: the copy is shared. A container that outlives the tests must not keep the lock.
exec 9>"/run/$TEST_USER.lock"
flock --nonblock 9 || { say "waiting for another run of the tests" && flock 9; }

COPY=$HOME_OF_USER/rless
# What git does not list there would be deleted as old, a .git among it.
[ ! -e "$COPY/.git" ] || die "$COPY is a checkout; root copies the tree to there: move it"
as_user_in() { # DIRECTORY USER COMMAND...
    local directory=$1 user=$2
    shift 2
    local keep=() name
    while IFS= read -r name; do keep+=("$name=${!name}"); done < <(compgen -e |
        grep -E '^(CI|TERM|COLUMNS|(PIP|RLESS|PYTEST|HYPOTHESIS)_.*|.*_(proxy|PROXY)|SSL_CERT_.*)$')
    (
        cd "$directory"
        exec runuser -u "$user" -- env -i HOME="/home/$user" USER="$user" LOGNAME="$user" \
            SHELL=/bin/bash LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
            "${keep[@]}" "$@" 9>&-
    )
}
as_user() { as_user_in "$COPY" "$TEST_USER" "$@"; }

# Copy what git knows of, and new files that it does not ignore. What pip and Python have made in
# the copy stays, so that nothing is compiled twice.
tree_files() { # NUL-terminated names
    if git -c safe.directory='*' rev-parse --git-dir >/dev/null 2>&1; then
        git -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
            while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done
    else
        find . \( -name .venv -o -name .git -o -name __pycache__ -o -path ./rootless/bin \) -prune \
            -o ! -type d -printf '%P\0'
    fi | LC_ALL=C sort -z
}
copied_files() {
    find . \( -path ./.venv -o -path ./rootless/bin -o -name '*.egg-info' -o -name __pycache__ \) \
        -prune -o ! -type d -printf '%P\0' | LC_ALL=C sort -z
}
install -d -o "$TEST_USER" -g "$(id -g "$TEST_USER")" "$COPY"
mapfile -d '' -t gone < <(LC_ALL=C comm -z -13 <(tree_files) <(cd "$COPY" && copied_files))
if [ ${#gone[@]} -gt 0 ]; then
    (cd "$COPY" && printf '%s\0' "${gone[@]}" | xargs -0 rm -f --)
    # An old .pyc would keep a folder that has moved.
    find "$COPY" -path "$COPY/.venv" -prune -o -name __pycache__ -exec rm -rf {} +
    find "$COPY" -type d -empty ! -path "$COPY/.venv/*" -delete
fi
tree_files | tar --create --null --files-from=- | as_user tar --extract --preserve-permissions
chmod 755 "$HOME_OF_USER" # for rless-nosub
