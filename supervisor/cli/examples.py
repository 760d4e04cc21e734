"""An example of each command, shown at the end of its help."""

from __future__ import annotations

import click

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("jsbox demo --once",),
    "new": ("jsbox new clinic && cd clinic && jsbox test && jsbox dev",),
    "types": ("jsbox types > src/jsbox.d.ts",),
    "dev": ("jsbox dev", "jsbox dev app.js --config config.json --set greeting=@hello.txt"),
    "test": ("jsbox test", "jsbox test tests/register.chat.toml --junit junit.xml"),
    "chat": ("jsbox chat phone --as +27821234567", "printf '1\\nThandi\\n' | jsbox chat phone"),
    "serve": ("jsbox serve -c /etc/jsbox.toml",),
    "check": ("jsbox check -c /etc/jsbox.toml",),
    "doctor": ("jsbox doctor -c /etc/jsbox.toml",),
    "ps": ("jsbox ps --json", "jsbox ps --host all"),
    "logs": ("jsbox logs clinic -f",),
    "trace": ("jsbox trace --app clinic --notable", "jsbox trace 6c0b9a1e"),
    "replay": (
        "jsbox replay 6c0b9a1e --app fixed.js",
        "jsbox replay 6c0b9a1e --save tests/lost.recording.json",
    ),
    "outbox": ("jsbox outbox",),
    "outbox list": ("jsbox outbox list phone",),
    "outbox show": ("jsbox outbox show phone 17",),
    "outbox drop": ("jsbox outbox drop phone 17 18", "jsbox outbox drop phone --all"),
    "deadletters": ("jsbox deadletters list",),
    "deadletters list": ("jsbox deadletters list",),
    "deadletters show": ("jsbox deadletters show 17",),
    "deadletters retry": ("jsbox deadletters retry --app clinic",),
    "deadletters drop": ("jsbox deadletters drop 17 18",),
    "limits": ("jsbox limits clinic --explain", "jsbox limits clinic --what-if heap=48MiB"),
    "reload": ("jsbox reload", "jsbox reload --all"),
    "push": (
        "jsbox push clinic +27821234567 +27829876543",
        "jsbox push clinic --group 'Clinic mothers' --rate 20 --dry-run",
    ),
    "contacts": ("jsbox contacts search acme 'name:Thandi AND extras-town:Kuruman'",),
    "contacts import": (
        "jsbox contacts import acme people.csv --dry-run",
        "jsbox contacts import acme contacts.jsonl",
    ),
    "contacts export": ("jsbox contacts export acme > contacts.jsonl",),
    "contacts get": ("jsbox contacts get acme 0f7a1c",),
    "contacts search": ("jsbox contacts search acme 'name:Thandi AND extras-town:Kuruman'",),
    "groups": ("jsbox groups list acme",),
    "groups list": ("jsbox groups list acme",),
    "groups export": ("jsbox groups export acme -o groups.csv",),
    "groups import": ("jsbox groups import acme groups.csv --dry-run",),
    "optouts": ("jsbox optouts list acme",),
    "optouts list": ("jsbox optouts list acme",),
    "optouts export": ("jsbox optouts export acme -o optouts.csv",),
    "optouts import": ("jsbox optouts import acme optouts.csv",),
    "audit": ("jsbox audit --since 24h", "jsbox audit --who thandi --json"),
    "load": (
        "jsbox load campaign.toml --check",
        "jsbox load campaign.toml --serve --out run2 --baseline run1",
    ),
    "backup": ("jsbox backup monday.tar",),
    "restore": ("jsbox restore monday.tar --dry-run",),
    "migrate": ("jsbox migrate vxsandbox config.yaml -o jsbox.toml",),
    "migrate vxsandbox": ("jsbox migrate vxsandbox config.yaml --map /config=. -o jsbox.toml",),
    "migrate kv": (
        "jsbox migrate kv acme --redis redis://old:6379/0 --sandbox-id sandbox1 --dry-run",
    ),
    "token": ("jsbox token new",),
    "token new": (
        "jsbox token new",
        "jsbox token new --name grafana --scope read --expires 2027-12-31",
    ),
    "token hash": ("jsbox token hash < token.txt",),
    "extras": ("jsbox extras jsbox.service > /etc/systemd/system/jsbox.service",),
    "version": ("jsbox version --json",),
}


def add_examples(command: click.Command, path: str) -> None:
    """Put the examples of a command, and of those below it, at the end of their help."""
    if path in EXAMPLES:
        lines = [f"  {line}" for line in EXAMPLES[path]]
        # click keeps the lines of a paragraph that begins with a backspace
        command.epilog = "\n".join(["\b", f"Example{'s' if len(lines) > 1 else ''}:", *lines])
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            add_examples(below, f"{path} {name}")
