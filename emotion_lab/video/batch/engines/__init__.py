"""Engines that spread the files over processes and machines, one file each."""
