'use strict';
// What check.js says of apps and packages.

const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { test } = require('node:test');

const PROGRAM = path.join(__dirname, '..', 'check.js');

/** The answers to some questions. */
function ask(questions, flags = []) {
  const input = questions.map((one) => JSON.stringify(one) + '\n').join('');
  const { stdout } = spawnSync(process.execPath, ['--jitless', ...flags, PROGRAM], { input });
  return stdout.toString().trim().split('\n').map((line) => JSON.parse(line));
}

const LONG = 'var b = 1;'.repeat(500);

test('code that compiles is not run', () => {
  const good = ['throw 1', '#!/usr/bin/node\nx', '', 'while (true) {}', 'var é = "😀"'];
  assert.deepEqual(ask(good.map((source) => ({ source }))), good.map(() => null));
});

test('code that does not compile has a place and a reason', () => {
  const bad = {
    'var a;\n  function ( {': [2, 3, 'Function statements require a function name'],
    [LONG + 'function ( {']: [1, 5001, 'Function statements require a function name'],
    'function f() {\n\treturn {a: 1;\n}': [2, 14, "Unexpected token ';'"],
    'const a = 1;\nconst a = 2;': [2, 7, "Identifier 'a' has already been declared"],
    'import x from "y";': [1, 1, 'Cannot use import statement outside a module'],
  };
  const answers = ask(Object.keys(bad).map((source) => ({ source })));
  assert.deepEqual(answers.map(({ line, column, text }) => [line, column, text]),
    Object.values(bad).map(([line, column, text]) => [line, column, `SyntaxError: ${text}`]));
});

test('an error has its place in the source that a map names', () => {
  const source = 'var a;\nfunction ( {', map = '{"sources":["src/b.js"],"mappings":";AAIA"}';
  const inline = `//# sourceMappingURL=data:application/json,${encodeURIComponent(map)}`;
  const answers = ask([{ source, map }, { source: `${source}\n${inline}` }, { source, map: '{' }]);
  assert.deepEqual(answers.map(({ file, line, column }) => [file, line, column]),
    [['src/b.js', 5, 1], ['src/b.js', 5, 1], [undefined, 2, 1]]);
});

test('an error that quotes a long text is short, and keeps its reason', () => {
  const [{ text }] = ask([{ source: `/${'('.repeat(2e6)}/` }]);
  assert.ok(text.length < 500, text.length);
  assert.match(text, /^SyntaxError: Invalid regular expression: \/\(+ \.\.\. \(+\/: [A-Z][a-z ]+$/);
});

test('without the inspector, the line is known', () => {
  const flags = ['--permission', `--allow-fs-read=${path.dirname(PROGRAM)}/*`];
  const [{ line, column }] = ask([{ source: '\n\nvar 1;' }], flags);
  assert.deepEqual([line, column], [3, 0]);
});

test('nesting that no stack can hold is an answer, and not the end', () => {
  const [deep, next] = ask([{ source: '('.repeat(1e6) }, { source: '1' }]);
  assert.match(deep.text, /^RangeError/);
  assert.equal(next, null);
});

test('packages that a sandbox cannot load have a kind', (t) => {
  const root = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'check-')));
  t.after(() => fs.rmSync(root, { recursive: true }));
  const put = (file, text) => {
    fs.mkdirSync(path.dirname(path.join(root, file)), { recursive: true });
    fs.writeFileSync(path.join(root, file), text);
  };
  put('node_modules/good/index.js', '#!/usr/bin/env node\nmodule.exports = "import export";');
  put('node_modules/@of/both/package.json',
    '{"type": "module", "exports": {"import": "./a.js", "require": "./b.cjs"}}');
  put('node_modules/@of/both/a.js', 'export default 1');
  put('node_modules/@of/both/b.cjs', 'module.exports = 1');
  put('node_modules/parts/package.json', '{"exports": {".": "./a.js"}}');
  put('node_modules/parts/a.js', '');
  put('node_modules/parts/b.js', '');
  put('node_modules/only/package.json', '{"exports": {"import": "./a.mjs"}}');
  put('node_modules/only/a.mjs', 'export default 1');
  put('node_modules/typed/package.json', '{"type": "module", "main": "a.js"}');
  put('node_modules/typed/a.js', 'import "x";');
  put('node_modules/built/index.js', '');
  put('node_modules/built/build/Release/it.node', '');
  put('node_modules/inner/index.js', '');
  put('node_modules/inner/node_modules/dep/it.node', '');
  put('node_modules/empty/readme', '');
  put('node_modules/torn/package.json', '{"main": ');
  put('node_modules/torn/index.js', '');
  put('node_modules/outside/package.json', '{"exports": "../a.js"}');
  put('out/index.js', '');
  put('node_modules/.store/kept/index.js', '');
  fs.symlinkSync(path.join(root, 'out'), path.join(root, 'node_modules', 'out'));
  fs.symlinkSync(path.join('.store', 'kept'), path.join(root, 'node_modules', 'kept'));
  const expected = {
    good: null, '@of/both': null, parts: null, 'parts/b.js': 'hidden', only: 'esm',
    typed: 'esm', built: 'native', inner: null, empty: 'missing',
    torn: 'broken', outside: 'broken',
    out: 'link', kept: null, nothing: null, lodash: null,
  };
  const modules = path.join(root, 'node_modules');
  const answers = ask(Object.keys(expected).map((name) => ({ package: name, modules })));
  assert.deepEqual(answers.map((one) => one && one.kind), Object.values(expected));
});
