"""Hydra's search path: the configs of plug-ins follow those of this package."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from emotion_lab.core import plugins


class PluginConfigs(SearchPathPlugin):
    """Adds the folder ``conf/`` of every active plug-in."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders; Hydra calls this when it loads its config."""
        for folder in plugins.conf_dirs():
            search_path.append("emotion_lab.plugins", f"file://{folder}")


def register() -> None:
    """Register the search path with Hydra; a second call changes nothing."""
    Plugins.instance().register(PluginConfigs)
