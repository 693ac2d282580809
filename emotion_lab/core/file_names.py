"""Names of files and folders that operating systems and programs leave behind."""

from __future__ import annotations

#: Names in lower case, besides all names that start with a dot.
_SYSTEM_NAMES = frozenset(
    {
        *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
        # NAS systems: Synology and QNAP
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
        *("@sharebin", "@synoeastream", "@synoresource", "__pycache__"),
    }
)


def is_system_name(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that no user made (``__MACOSX``)."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES
