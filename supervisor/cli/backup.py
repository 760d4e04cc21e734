"""`jsbox backup` and `jsbox restore`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from .common import (
    config_option,
    fail,
    json_option,
    load_or_exit,
    print_json,
    run_or_exit,
)


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@config_option
@json_option
def backup(*, file: Path | None, config_file: Path, as_json: bool) -> None:
    """Back up the embedded store to FILE (default: ./jsbox-DATE-TIME.tar), while it serves.

    Config and apps are not included: back those files up like any others.
    """
    from ..tools.backup import CannotBackUp, back_up

    file = file or Path(f"jsbox-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar")
    config, target = load_or_exit(config_file), file.absolute()

    async def main() -> int:
        try:
            manifest = await back_up(config, target)
        except CannotBackUp as error:
            fail(str(error))
        _say(manifest, f"written: {file}", as_json=as_json)
        return 0

    run_or_exit(main)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only check the file and the data directory.")
@click.option("--replace", is_flag=True, help="Move existing data aside.")
@config_option
@json_option
def restore(*, file: Path, dry_run: bool, replace: bool, config_file: Path, as_json: bool) -> None:
    """Restore a backup into the data directory of a stopped server."""
    from ..errors import CannotStart
    from ..tools.backup import CannotBackUp
    from ..tools.backup import restore as put_back

    config = load_or_exit(config_file)
    try:
        manifest = put_back(config, file, dry_run=dry_run, replace=replace)
    except (CannotBackUp, CannotStart) as error:
        fail(str(error))
    _say(
        manifest,
        "it can be restored" if dry_run else f"restored to {config.data_dir}",
        as_json=as_json,
    )
    sys.exit(0)


def _say(manifest: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(manifest)
    else:
        click.echo(
            f"{text}: {manifest['keys']} keys, {manifest['bytes'] / 1e6:.1f} MB,"
            f" taken {manifest['taken']} by jsbox {manifest['jsbox']}"
        )
