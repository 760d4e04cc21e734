'use strict';
// Checks apps without running them. Each line on stdin is a question in JSON, each line on stdout
// its answer, in the same order:
//   {"source", "map"}         the text of an app, compiled as the harness does; its source map.
//                             null, or {"line", "column", "text"}: why it does not compile; "file",
//                             too, if that is in a source that the map names
//   {"package", "modules"}    what require() would find in that modules_dir.
//                             null, or {"kind", "text"}: why an app cannot have it

const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');
const { isBelow, resolve } = require('./lib/resolve');
const { readLines, write } = require('./lib/wire');

const FILENAME = 'app.js';
// As in lib/library.js.
const WRAPPER = ['(function (exports, require, module, __filename, __dirname) {', '\n})'];
const HEAD = 340, TAIL = 150;   // characters of an error: V8 quotes a regular expression whole
const NATIVE_DEPTH = 4;     // folders below a package in which compiled code is looked for
const NATIVE_ENTRIES = 2000;
let session = null;

function problemOf(source, map) {
  try {
    new vm.Script(source, { filename: FILENAME });
    return null;
  } catch (error) {
    const place = { line: 0, column: 0, ...placeOf(source, error) };
    const { createStacks } = require('./lib/stacks');
    const found = createStacks({ source, map }).place(place.line, place.column);
    return { ...place, ...found, text: shorten(`${error}`) };
  }
}

function shorten(text) {
  return text.length <= HEAD + TAIL ? text : `${text.slice(0, HEAD)} ... ${text.slice(-TAIL)}`;
}

function placeOf(source, error) {
  // Only the inspector knows it exactly: the stack shows no column in a long line.
  if (error?.name !== 'SyntaxError') return {};
  let found = {};
  try {
    if (session === null) {
      const { Session } = require('node:inspector');
      session = new Session();
      session.connect();
      session.post('Runtime.enable');
    }
    const how = { expression: source, sourceURL: FILENAME, persistScript: false };
    session.post('Runtime.compileScript', how, (_, answer) => {
      const details = answer?.exceptionDetails;
      if (details) found = { line: details.lineNumber + 1, column: details.columnNumber + 1 };
    });
  } catch { /* a Node without the inspector: the stack has the line */ }
  if (found.line) return found;
  const [first] = error.stack.split('\n', 1), prefix = `${FILENAME}:`;
  return first.startsWith(prefix) ? { line: Number(first.slice(prefix.length)) || 0 } : {};
}

function packageOf(name, modules) {
  const parts = name.split('/');
  return path.join(modules, ...parts.slice(0, name.startsWith('@') ? 2 : 1));
}

function manifest(folder) {
  try { return JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8')); } catch {
    return {};
  }
}

function hasNative(folder) {
  // Compiled code, or instructions to compile it; not in the packages that it needs itself.
  if (fs.existsSync(path.join(folder, 'binding.gyp')) || manifest(folder).gypfile === true) {
    return true;
  }
  let left = NATIVE_ENTRIES;
  const look = (where, depth) => {
    let entries = [];
    try { entries = fs.readdirSync(where, { withFileTypes: true }); } catch { /* not readable */ }
    for (const entry of entries) {
      if (--left < 0) return false;
      if (entry.isFile() && entry.name.endsWith('.node')) return true;
      const isFolder = entry.isDirectory() && entry.name !== 'node_modules';
      if (isFolder && depth > 0 && look(path.join(where, entry.name), depth - 1)) return true;
    }
    return false;
  };
  return look(folder, NATIVE_DEPTH);
}

function esModule(file) {
  // Whether it is one, by what V8 says to its text as CommonJS.
  if (file.endsWith('.mjs')) return true;
  if (file.endsWith('.json')) return false;
  const source = fs.readFileSync(file, 'utf8').replace(/^#!.*/, '');
  try {
    new vm.Script(WRAPPER.join(source), { filename: file });
    return false;
  } catch (error) {
    return /\b(import|export|import\.meta)\b|await is only valid/.test(`${error}`);
  }
}

function problemOfPackage(name, modules) {
  const folder = packageOf(name, modules);
  if (!fs.existsSync(folder)) return null;   // bundled, or missing: others say so
  const real = fs.realpathSync(folder);
  if (!isBelow(real, fs.realpathSync(modules))) return { kind: 'link', text: real };
  let file = null;
  try {
    file = resolve(path.join(modules, 'app.js'), name, modules);
  } catch ({ message, code }) {
    if (code !== 'ERR_PACKAGE_PATH_NOT_EXPORTED') return { kind: 'broken', text: message };
    // Either it is for `import` only, or no part of what the package gives.
    if (name !== path.relative(modules, folder)) return { kind: 'hidden', text: message };
    return { kind: 'esm', text: folder };
  }
  if (file === null) {
    const kind = manifest(folder).type === 'module' ? 'esm' : 'missing';
    return { kind, text: folder };
  }
  if (file.endsWith('.node') || hasNative(real)) return { kind: 'native', text: folder };
  return esModule(file) ? { kind: 'esm', text: file } : null;
}

readLines((text) => {
  const asked = JSON.parse(text);
  let answer = null;
  if (asked.source !== undefined) answer = problemOf(asked.source, asked.map);
  else {
    try { answer = problemOfPackage(asked.package, asked.modules); } catch { /* not readable */ }
  }
  write(JSON.stringify(answer) + '\n');
}, () => process.exit(0));
