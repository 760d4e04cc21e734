'use strict';
// Says what the concat task of a Gruntfile.js would build, without grunt: `node gruntfile.js FILE`.
// The answer on stdout is JSON, {"bundles": [{"name", "dest", "text", "map"}], "files": [...],
// "missing": [...]}, or {"error", "line"}. `files` is whatever the answer depends on, folders too.
// A Gruntfile is a program of the developer's own: it runs here as it would with grunt.

const fs = require('node:fs');
const Module = require('node:module');
const path = require('node:path');

const FILE = path.resolve(process.argv[2]), ROOT = path.dirname(FILE);
const DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
const TEMPLATE = /<%=([\s\S]+?)%>/g, WHOLE = /^\s*<%=((?:(?!%>)[\s\S])+)%>\s*$/;
const DEEPEST = 50;   // templates in templates
const seen = new Set([FILE]), missing = new Set();
let config = {};

/** Stands for anything of grunt and its plugins that does not matter here. */
const anything = new Proxy(function () {}, {
  get: (_, key) => {
    if (key === Symbol.toPrimitive) return () => '';
    if (key === Symbol.iterator) return function* () { /* of nothing */ };
    return key === 'then' || key === '__esModule' ? undefined : anything;
  },
  apply: () => anything,
  construct: () => anything,
});

function read(file) {
  const whole = path.resolve(ROOT, file);
  seen.add(whole);
  return fs.readFileSync(whole, 'utf8').replace(/^\uFEFF/, '').replace(/\r\n?/g, '\n');
}

function evaluate(code, depth) {
  const found = new Function('data', 'grunt', `with (data) { return (${code}); }`)(config, grunt);
  return resolve(found, depth + 1);
}

/** A value of the config with its templates filled in, as grunt.config.get does. */
function resolve(value, depth = 0) {
  if (depth > DEEPEST) throw new Error('its templates refer to each other in a circle');
  if (typeof value === 'string') {
    const whole = WHOLE.exec(value);
    if (whole !== null) return evaluate(whole[1], depth);
    return value.replace(TEMPLATE, (_, code) => evaluate(code, depth));
  }
  if (Array.isArray(value)) return value.map((one) => resolve(one, depth + 1));
  if (value === null || typeof value !== 'object' || value === anything) return value;
  if (Object.getPrototypeOf(value) !== Object.prototype) return value;
  return Object.fromEntries(Object.entries(value)
    .map(([key, one]) => [resolve(key, depth + 1), resolve(one, depth + 1)]));
}

function expand(patterns, cwd = ROOT) {
  const found = new Set();
  for (const pattern of [patterns].flat(Infinity)) {
    if (typeof pattern !== 'string') continue;
    const isOut = pattern.startsWith('!');
    const plain = path.normalize(isOut ? pattern.slice(1) : pattern);
    const isGlob = /[*?[\]{}]/.test(plain);
    const files = isGlob ? fs.globSync(plain, { cwd }).sort() : [plain];
    for (const file of files) if (isOut) found.delete(file); else found.add(file);
    if (!isGlob) continue;
    for (const file of files) seen.add(path.dirname(path.resolve(cwd, file)));
    seen.add(path.resolve(cwd, plain.split('/').filter((_, i, all) =>
      !all.slice(0, i + 1).some((part) => /[*?[\]{}]/.test(part))).join('/')));
  }
  return [...found].filter((file) => isFile(path.resolve(cwd, file)));
}

function isFile(file) {
  try {
    if (fs.statSync(file).isFile()) return true;
  } catch {
    missing.add(path.relative(ROOT, file));
    seen.add(file);
  }
  return false;
}

const own = {
  initConfig(given) { config = given; return config; },
  config: Object.assign((...args) => (args.length > 1 ? set(...args) : get(...args)), {
    init(given) { config = given; },
    get,
    set,
    merge(given) { Object.assign(config, given); },
  }),
  file: {
    read,
    readJSON: (file) => JSON.parse(read(file)),
    exists: (...parts) => fs.existsSync(path.resolve(ROOT, ...parts)),
    expand: (...args) => expand(args.filter((one) => one?.constructor !== Object)),
    isDir: (...parts) => fs.existsSync(path.resolve(ROOT, ...parts)),
  },
  option: () => undefined,
  util: { linefeed: '\n' },
  template: {
    process: (text) => resolve(text),
    today: () => '',
    date: () => '',
  },
};

function get(key) {
  if (key === undefined) return resolve(config);
  const parts = Array.isArray(key) ? key : String(key).split('.');
  return resolve(parts.reduce((value, part) => value?.[part], config));
}

function set(key, value) {
  const parts = Array.isArray(key) ? key : String(key).split('.'), last = parts.pop();
  parts.reduce((table, part) => (table[part] ??= {}), config)[last] = value;
  return value;
}

/** What is known of an object, and `anything` for the rest of it. */
const withRest = (known) => new Proxy(known, {
  get(target, key) {
    if (!(key in target)) return typeof key === 'symbol' ? undefined : anything;
    const value = target[key];
    return value !== null && typeof value === 'object' ? withRest(value) : value;
  },
});
const grunt = withRest(own);

/** The parts of a concat target, {name, src, dest, options}. */
function* partsOf(name, raw, shared) {
  const target = resolve(raw);
  if (typeof target === 'string' || Array.isArray(target)) {
    yield { name: nameOf(resolve(name)), src: target, dest: resolve(name), options: shared };
    return;
  }
  if (target === null || typeof target !== 'object' || target === anything) return;
  const options = { ...shared, ...target.options };
  const listed = Array.isArray(target.files) ? target.files
    : Object.entries(target.files ?? {}).map(([dest, src]) => ({ dest, src }));
  if (target.src !== undefined && target.dest !== undefined) listed.push(target);
  for (const { src, dest, cwd } of listed) {
    const isOnly = listed.length === 1;
    yield { name: isOnly ? name : nameOf(dest), src, dest, cwd, options };
  }
}

const nameOf = (dest) => path.basename(String(dest), '.js');

function build({ name, src, dest, cwd, options }) {
  const { separator = '\n', banner = '', footer = '' } = options;
  const folder = path.resolve(ROOT, cwd ?? '.');
  const files = expand(src, folder);
  let text = resolve(banner), mappings = ';'.repeat(text.split('\n').length - 1), line = 0;
  let before = 0;   // the line that the last mapping led to
  files.forEach((file, index) => {
    let part = read(path.resolve(folder, file));
    if (typeof options.process === 'function') part = String(options.process(part, file));
    else if (options.process) part = String(resolve(part));
    if (index > 0) text += separator;
    if (index > 0) mappings += ';'.repeat(separator.split('\n').length - 1);
    const lines = part.split('\n').length;
    for (line = 0; line < lines; line++) {
      mappings += (line > 0 ? ';' : '') + 'A' + digit(index > 0 && line === 0 ? 1 : 0)
        + digit(line - before) + 'A';
      before = line;
    }
    text += part;
  });
  text += resolve(footer);
  const sources = files.map((file) => path.relative(ROOT, path.resolve(folder, file)));
  return { name, dest, text, map: JSON.stringify({ version: 3, sources, mappings }) };
}

function digit(value) {
  let text = '', rest = value < 0 ? (-value << 1) | 1 : value << 1;
  do {
    text += DIGITS[(rest & 31) | (rest > 31 ? 32 : 0)];
    rest >>= 5;
  } while (rest > 0);
  return text;
}

/** Load the Gruntfile. A plugin that is not installed is `anything`. */
function load() {
  const original = Module._load;
  Module._load = function (request, parent, ...rest) {
    if (request === 'grunt') return grunt;
    try {
      return original.call(this, request, parent, ...rest);
    } catch (error) {
      const isOwn = /^[./]/.test(request);
      if (error.code === 'MODULE_NOT_FOUND' && !isOwn) return anything;
      throw error;
    }
  };
  process.chdir(ROOT);
  const made = require(FILE);
  if (typeof made !== 'function') {
    throw new Error('expected module.exports = function (grunt) { ... }');
  }
  made(grunt);
  for (const file of Object.keys(require.cache)) {
    if (!file.includes('/node_modules/') && file !== __filename) seen.add(file);
  }
}

function answer() {
  load();
  const { options = {}, ...targets } = config.concat ?? {};
  const bundles = Object.entries(targets)
    .flatMap(([name, raw]) => [...partsOf(name, raw, resolve(options))])
    .filter(({ dest }) => typeof dest === 'string' && dest.endsWith('.js'))
    .map(build);
  return { bundles, files: [...seen], missing: [...missing] };
}

function lineOf(error) {
  const stack = String(error?.stack), at = stack.indexOf(FILE + ':');
  return at < 0 ? 1 : Number.parseInt(stack.slice(at + FILE.length + 1), 10) || 1;
}

console.log = console.info = console.error;   // stdout is for the answer
let said;
try {
  said = answer();
} catch (error) {
  said = { error: `${error?.message ?? error}`.slice(0, 1000), line: lineOf(error) };
}
process.stdout.write(JSON.stringify(said) + '\n', () => process.exit(0));
