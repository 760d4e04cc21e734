"""A copy of the harness that hands its own realm to the app: what an escape from V8's context would
give. The product has no such switch, so the tests make one, from the product's own files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervisor.service import HARNESS

_GRANT = """
{
  const host = { process: globalThis.process, require };
  const makeRealm = module.exports.createRealm;
  module.exports.createRealm = (options) => {
    const realm = makeRealm(options);
    realm.context.__test_host = host;
    return realm;
  };
}
"""


@contextmanager
def granted_harness() -> Iterator[Path]:
    """The harness, with `__test_host = {process, require}` in every realm of an app."""
    with tempfile.TemporaryDirectory(prefix="jsbox-granted-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        copy = folder / "sandbox_js"
        shutil.copytree(HARNESS.parent, copy, ignore=shutil.ignore_patterns("test", "sample"))
        realm = copy / "lib" / "realm.js"
        realm.write_text(realm.read_text() + _GRANT)
        yield copy / "harness.js"
