"""Shell completion of commands, config groups with their choices, and keys.

The script contains all words, so that completing them starts no Python.
"""

from __future__ import annotations

from emotion_lab.cli.help import choices, commands, groups, keys
from emotion_lab.config import schema
from emotion_lab.core.errors import unknown

_BASH = """\
_emotion_lab() {
    local current="${COMP_LINE:0:COMP_POINT}" found=""
    current="${current##* }"
    if [[ $COMP_CWORD -eq 1 ]]; then
        found="@COMMANDS@"
    else
        case "${COMP_WORDS[1]}" in
@CASES@
        esac
    fi
    COMPREPLY=($(compgen -W "$found" -- "$current"))
    # A key that is complete: file names (-o default) for its value.
    [[ ${COMPREPLY[*]} == "$current" ]] && COMPREPLY=()
    # Bash replaces only what follows the last "=".
    if [[ $current == *=* && $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*=}"}"}")
    fi
    # No blank after a key.
    [[ ${COMPREPLY[*]} == *= ]] && compopt -o nospace
}
complete -o default -F _emotion_lab emotion-lab"""

_ZSH = """\
#compdef emotion-lab
_emotion_lab() {
    local -a found
    if (( CURRENT == 2 )); then
        found=(@COMMANDS@)
    else
        case $words[2] in
@CASES@
        esac
    fi
    # No blank after a key; file names after the "=" of a path.
    compadd -S '' -- ${(M)found:#*=}
    compadd -- ${found:#*=} || { compset -P '*=' && _files }
}
# From a folder of $fpath, the first completion runs this file; otherwise it is sourced.
if [[ ${funcstack[1]} == _emotion-lab ]]; then
    _emotion_lab
else
    compdef _emotion_lab emotion-lab
fi"""

_FISH = """\
function __emotion_lab_words
    set -l before (commandline -opc)
    if test (count $before) -eq 1
        string split ' ' -- '@COMMANDS@'
        return
    end
    switch $before[2]
@CASES@
    end
end
# Whether the value of a key is typed that has no words: a path perhaps.
function __emotion_lab_is_value
    set -l current (commandline -ct)
    string match -q '*=*' -- $current
    and not __emotion_lab_words | string match -q -- "$current?*"
end
complete -c emotion-lab -f -a '(__emotion_lab_words)'
complete -c emotion-lab -n __emotion_lab_is_value -F"""

#: Shell -> (script, line of one command).
_TEMPLATES = {
    "bash": (_BASH, '        {command}) found="{words}" ;;'),
    "zsh": (_ZSH, "        {command}) found=({words}) ;;"),
    "fish": (_FISH, "        case {command}\n            string split ' ' -- '{words}'"),
}
SHELLS = tuple(_TEMPLATES)


def words(command: str) -> list[str]:
    """Return what can follow a command: groups and keys with their names, other keys, flags."""
    if command == "completion":
        return list(SHELLS)
    entries = [command, "train"] if command == "sweep" else [command]
    found = [f"{g}={name}" for e in entries for g in groups(e) for name in choices(e, g)]
    for entry in entries:
        for key in keys(entry):
            found += [f"{key}={name}" for name in schema.names(key, entry)] or [f"{key}="]
    return list(dict.fromkeys([*found, "--help", "--version"]))


def script(shell: str) -> str:
    """Return the completion script of a shell.

    Args:
        shell: One of :data:`SHELLS`.
    """
    if shell not in _TEMPLATES:
        raise unknown("shell", shell, SHELLS, "Type emotion-lab completion <shell>.")
    template, line = _TEMPLATES[shell]
    names = [*commands(), "completion"]
    cases = [line.format(command=name, words=" ".join(words(name))) for name in names]
    return template.replace("@COMMANDS@", " ".join(names)).replace("@CASES@", "\n".join(cases))
