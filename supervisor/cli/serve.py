"""`jsbox serve`."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from .. import early
from .codes import EXIT_CONFIG
from .common import config_option, fail, load_or_exit, run_or_exit, start_logging

if TYPE_CHECKING:
    from ..config import Config

FILES = 65536  # descriptors; connections and sandboxes have bounds of their own

log = logging.getLogger(__name__)


@click.command()
@config_option
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Serve with so many processes, for a machine with many cores (cluster.processes).",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
def serve(config_file: Path, processes: int | None, log_level: str) -> None:
    """Run the apps of a config file until SIGTERM or Ctrl-C. SIGHUP reloads the config."""
    config = load_or_exit(config_file)
    start_logging(log_level)
    _raise_open_files()

    from ..config import load
    from ..service import Service
    from ..serving import run

    read_config: Callable[[], Config] = partial(load, config_file)
    if processes is not None:
        config, read_config = _overridden(config, read_config, processes)
    early.hold()
    if _is_divided(config):
        _serve_together(config, read_config)

    def ready(service: Service) -> None:
        log.info(
            "ready: gateway %s, admin %s, %d apps",
            service.gateway_url,
            service.admin_url,
            len(config.apps),
        )

    async def main() -> int:
        await run(config, read_config, ready)
        return 0

    try:
        run_or_exit(main, ends_on_sigint=False)
    finally:
        early.ignore()


def _raise_open_files() -> None:
    """Take as many file descriptors as we may have: shells and systemd give 1024 at first, for
    programs that use select(2). Each sandbox gets its own limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _overridden(
    config: Config, read_config: Callable[[], Config], count: int
) -> tuple[Config, Callable[[], Config]]:
    """The config with another number of processes, now and after a reload; exit if it cannot be."""
    from ..config.checks import processes_problem
    from ..processes.run import with_processes

    config = with_processes(config, count)
    if (problem := processes_problem(config.cluster, config.redis.url)) is not None:
        fail(f"--processes: {problem}", EXIT_CONFIG)
    return config, lambda: with_processes(read_config(), count)


def _is_divided(config: Config) -> bool:
    """Whether the service has a parent: it has several processes, or had them, so that its embedded
    store is one that is shared.
    """
    from ..processes.shares import was_divided
    from ..store.opening import EMBEDDED

    if config.cluster.processes > 1:
        return True
    if config.redis.url != EMBEDDED or not was_divided(config.data_dir):
        return False
    log.info("the store in %s is shared: one process serves it as several did", config.data_dir)
    return True


def _serve_together(config: Config, read_config: Callable[[], Config]) -> NoReturn:
    import gc
    import sys

    from ..errors import CannotStart
    from ..processes.member import Member
    from ..processes.run import serve_together
    from ..service import Service
    from ..serving import run

    def ready(service: Service) -> None:
        log.info("it serves %d apps", len(service.config.apps))

    async def serve_one(member: Member) -> int:
        await run(member.config(), member.read_config, ready, member)
        return 0

    gc.collect()
    gc.freeze()  # what the children share with us stays shared
    try:
        code = serve_together(config, read_config, serve_one, run_or_exit)
    except CannotStart as error:
        fail(str(error))
    finally:
        early.ignore()
    sys.exit(code)
