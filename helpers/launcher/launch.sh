#!/bin/sh
# The command @NAME@: start Python on @MODULE@, as fast and as sealed as it goes.
#
# Made at install from helpers/launcher/launch.sh. A shell finds the interpreter in 1 ms, where a console
# script of pip spends 8. -I: nothing from the current directory, PYTHON* variables or the user's
# site-packages is imported; -S: no site, no sitecustomize. The package is imported, never run as
# a script, so that its bytecode is used.
self=$0
case $self in /*) ;; *) self=$PWD/$self ;; esac
case $self in */./* | */../* | *//*) self=$(readlink -f -- "$self") ;; esac
[ -h "$self" ] && self=$(readlink -f -- "$self") # a link in ~/bin, or one of pipx
bin=${self%/*}
prefix=${bin%/*}

start() { # PYTHON LIB ARGUMENTS
    [ -x "$1" ] || return 0
    python=$1
    shift
    exec "$python" -I -S -c 'import sys
del sys.argv[0]
sys.path.append(sys.argv.pop(0))
from rootless.launch import start
start("@MODULE@")' "$@"
}

# Where an editable install keeps the package, and the Python that installed this file.
source='@SOURCE@'
python='@PYTHON@'
version='@VERSION@'

if [ -n "$source" ]; then
    if [ -e "$source/rootless/launch.py" ]; then
        start "$bin/python3" "$source" "$self" "$@"
        start "$python" "$source" "$self" "$@"
    fi
else
    # The package lies beside bin/: in a virtual environment, ~/.local, /usr/local or /usr. Its
    # directory tells the version of Python that it was installed for.
    for lib in "$prefix"/lib/python3*/site-packages "$prefix"/lib/python3*/dist-packages \
        "$prefix"/lib64/python3*/site-packages; do
        [ -e "$lib/rootless/launch.py" ] || continue
        name=${lib#"$prefix"/lib*/}
        name=${name%/*}
        start "$bin/$name" "$lib" "$self" "$@"
        [ "$name" = "python$version" ] && start "$python" "$lib" "$self" "$@"
        start "/usr/bin/$name" "$lib" "$self" "$@"
        start "/usr/local/bin/$name" "$lib" "$self" "$@"
    done
fi
echo "@NAME@: the installation of $self is broken: no Python or no package rootless was found" \
    "${source:+in $source }for it; install rless again" >&2
exit 125
