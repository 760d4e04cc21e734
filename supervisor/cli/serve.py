"""`jsbox serve`."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import click

from .. import early
from .common import config_option, load_or_exit, run_or_exit, start_logging

log = logging.getLogger(__name__)


@click.command()
@config_option
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
def serve(config_file: Path, log_level: str) -> None:
    """Run the apps of a config file until SIGTERM or Ctrl-C. SIGHUP reloads the config."""
    config = load_or_exit(config_file)
    start_logging(log_level)

    from ..config import load
    from ..service import Service
    from ..serving import run

    def ready(service: Service) -> None:
        log.info(
            "ready: gateway %s, admin %s, %d apps",
            service.gateway_url,
            service.admin_url,
            len(config.apps),
        )

    async def main() -> int:
        await run(config, partial(load, config_file), ready)
        return 0

    early.hold()
    try:
        run_or_exit(main)
    finally:
        early.ignore()
