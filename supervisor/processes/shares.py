"""What each of several processes has of the bounds that the config sets for the service.

Divided, so that the whole has no more than the config says: `pool.max_processes` of each app,
`node.max_processes`, `gateway.connections`. A process has one at least, so an app whose
max_processes is less than the number of processes has as many as there are processes.
Divided and rounded up, since they are reserves and no bounds: `pool.min_idle`, `node.spare`.
All else is for each process, as the text of its key says: `[search]`, `pool.queue`, an app's
limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attrs import evolve, frozen

from ..config import Config
from ..config.model import PROCESS_USERS, App
from ..config.units import Count, Natural
from ..store.ownership import OWN_FOLDER


@frozen
class Share:
    """The share of process `place` (from 1) of `count`."""

    place: int
    count: int

    def config(self, whole: Config) -> Config:
        """The config of this process; its apps are as they were, since `apps` divides them."""
        return evolve(
            whole,
            data_dir=self.folder(whole.data_dir),
            cluster=evolve(whole.cluster, mode="shared", processes=Count(self.count)),
            node=evolve(
                whole.node,
                max_processes=self._part(whole.node.max_processes),
                spare=self._reserve(whole.node.spare),
            ),
            isolation=evolve(
                whole.isolation,
                first_user=Count(whole.isolation.first_user + (self.place - 1) * PROCESS_USERS),
            ),
            gateway=evolve(whole.gateway, connections=self._part(whole.gateway.connections)),
        )

    def apps(self, config: Config) -> Config:
        """The same config with this process's share of each app's processes."""
        return evolve(config, apps={name: self._app(app) for name, app in config.apps.items()})

    def folder(self, data_dir: Path) -> Path:
        """What this process has of the data directory."""
        return data_dir / OWN_FOLDER.format(self.place)

    def _app(self, app: App) -> App:
        most = self._part(app.pool.max_processes)
        idle = Natural(min(self._reserve(app.pool.min_idle), most))
        return evolve(app, pool=evolve(app.pool, max_processes=most, min_idle=idle))

    def _part(self, total: int) -> Count:
        return Count(max(1, total // self.count + (self.place <= total % self.count)))

    def _reserve(self, total: int) -> Natural:
        return Natural(-(-total // self.count))


def too_few(config: Config, count: int) -> Iterator[str]:
    """Say which apps have more sandbox processes than the config says, because there are so many
    server processes.
    """
    for name, app in config.apps.items():
        if (most := app.pool.max_processes) < count:
            yield (
                f"app {name}: pool.max_processes is {most}, but each of {count} processes has one"
                f" at least: {count} in all"
            )


def was_divided(data_dir: Path) -> bool:
    """Whether several processes have used a data directory: the journals of its embedded store have
    partitions, which only servers that share them read.
    """
    return (data_dir / OWN_FOLDER.format(1)).is_dir()
