"""Moved to ``resources.instance.launcher``. Instance folders made by 0.1 name it in their dagster.yaml; goes with 0.3."""

from resources.instance.launcher import WarmRunLauncher

__all__ = ["WarmRunLauncher"]
