'use strict';
// Where a module is: as Node finds it, except that the folder with the app's own packages may have
// any name, and is looked in for every package.

const path = require('node:path');
const Module = require('node:module');

const BUNDLED_FILE = path.join(path.dirname(__dirname), 'app.js');   // beside its node_modules
// The package is there, and does not give this: no other place may give it instead.
const FINAL = new Set(['ERR_PACKAGE_PATH_NOT_EXPORTED', 'ERR_INVALID_PACKAGE_TARGET',
  'ERR_INVALID_PACKAGE_CONFIG', 'ERR_PACKAGE_IMPORT_NOT_DEFINED', 'ERR_INVALID_MODULE_SPECIFIER']);

function isBelow(file, folder) {
  return file === folder || file.startsWith(folder + path.sep);
}

function attempt(find) {
  try {
    return find() || null;
  } catch (error) {
    if (FINAL.has(error.code)) throw error;
    return null;
  }
}

/**
 * Find the file of a module: beside the one that asks, in the app's own packages, and among the
 * bundled toolkits.
 * @param {string} from The file that asks; that of the app itself is `modulesDir`/app.js.
 * @param {string} modulesDir The folder with the app's own packages; may be empty.
 * @returns {string | null}
 * @throws What Node says of a package that is there and does not export the name.
 */
function resolve(from, name, modulesDir) {
  const beside = () => attempt(() => Module.createRequire(from).resolve(name));
  if (!modulesDir || name.startsWith('.')) {
    return beside() ?? attempt(() => Module.createRequire(BUNDLED_FILE).resolve(name));
  }
  // Node also looks in each node_modules above; what is there is not the app's.
  const found = from === path.join(modulesDir, 'app.js') ? null : beside();
  const isOurs = found !== null
    && (isBelow(found, modulesDir) || isBelow(found, path.dirname(BUNDLED_FILE)));
  if (isOurs) return found;
  // What Node does for each node_modules, which minds `exports`.
  return attempt(() => Module._findPath(name, [modulesDir], false))
    ?? attempt(() => Module.createRequire(BUNDLED_FILE).resolve(name)) ?? found ?? beside();
}

module.exports = { BUNDLED_FILE, isBelow, resolve };
