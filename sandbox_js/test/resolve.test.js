'use strict';
// Packages are found as Node finds them, whatever the folder with them is called.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const { createRequire } = require('node:module');
const os = require('node:os');
const path = require('node:path');
const { test } = require('node:test');
const { resolve } = require('../lib/resolve');
const { start } = require('./start');

const PACKAGES = {
  plain: [{ main: './lib/main.js' }, 'lib/main.js', 'lib/other.js', 'data.json'],
  bare: [null, 'index.js'],
  text: [{ exports: './a.js' }, 'a.js', 'b.js', 'index.js'],
  dot: [{ exports: { '.': { import: './a.mjs', require: './a.cjs' } } }, 'a.mjs', 'a.cjs', 'b.js'],
  conditions: [
    {
      exports: {
        browser: './b.js', node: { import: './n.mjs', default: './n.js' }, default: './d.js',
      },
    },
    'b.js', 'n.mjs', 'n.js', 'd.js',
  ],
  order: [{ exports: { default: './d.js', require: './r.js' } }, 'd.js', 'r.js'],
  parts: [
    {
      exports: {
        '.': './i.js', './feature': './f.js', './lib/*': './src/*.js', './lib/*/deep.js': './d.js',
        './lib/secret': null, './data.json': './data.json', './gone': './gone.js',
      },
    },
    'i.js', 'f.js', 'd.js', 'src/x.js', 'src/y/z.js', 'src/secret.js', 'data.json', 'package.js',
  ],
  several: [{ exports: [{ import: './a.mjs' }, './a.js'] }, 'a.mjs', 'a.js'],
  outside: [{ exports: '../plain/lib/main.js' }, 'index.js'],
  mixed: [{ exports: { '.': './i.js', require: './r.js' } }, 'i.js', 'r.js'],
  modern: [{ type: 'module', exports: { import: './i.js' } }, 'i.js'],
  old: [{ main: './gone.js' }, 'index.js'],
  '@of/scope': [{ exports: { './x': { node: { require: './x.js' } } } }, 'x.js', 'index.js'],
  // What it needs itself, it asks for by these names.
  own: [
    { imports: { '#dep': './dep.js', '#none': './none/*' },
      exports: { '.': './i.js', './self': './self.js' } },
    'i.js', 'self.js', 'dep.js', 'node_modules/plain/index.js',
  ],
};
const NAMES = ['plain', 'plain/lib/other', 'plain/lib/other.js', 'plain/data.json', 'plain/nothing',
  'plain/package.json', 'bare', 'bare/index', 'text', 'text/b.js', 'text/package.json', 'dot',
  'dot/b.js', 'conditions', 'conditions/d.js', 'order', 'parts', 'parts/feature', 'parts/f.js',
  'parts/lib/x', 'parts/lib/y/z', 'parts/lib/y/deep.js', 'parts/lib/secret', 'parts/lib/nothing',
  'parts/data.json', 'parts/gone', 'parts/', 'parts/lib/../feature', 'several', 'outside', 'mixed',
  'modern', 'old', '@of/scope', '@of/scope/x', '@of/scope/x.js', '@of', '@of/nothing', 'nothing',
  'own', 'own/self', '#dep', 'text%2fb', '', 'plain\0'];

function put(folder, isNamed) {
  for (const [name, [manifest, ...files]] of Object.entries(PACKAGES)) {
    for (const file of files) {
      const where = path.join(folder, name, file);
      fs.mkdirSync(path.dirname(where), { recursive: true });
      const source = `module.exports = '${name}/${file}';`;
      fs.writeFileSync(where, file.endsWith('.json') ? '{}' : source);
    }
    if (manifest === null) continue;
    const text = JSON.stringify(isNamed ? { name, ...manifest } : manifest);
    fs.writeFileSync(path.join(folder, name, 'package.json'), text);
  }
}

function temporary(t) {
  const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'resolve-')));
  t.after(() => fs.rmSync(folder, { recursive: true }));
  return folder;
}

function outcome(find, folder) {
  try {
    const file = find();
    return file === null ? 'nothing' : path.relative(folder, file);
  } catch ({ code }) {
    return code === 'MODULE_NOT_FOUND' || code === 'ERR_INVALID_ARG_VALUE' ? 'nothing' : code;
  }
}

for (const isNamed of [true, false]) {
  test(`the app gets what Node would give it, names in the manifests: ${isNamed}`, (t) => {
    const folder = temporary(t), real = path.join(folder, 'real', 'node_modules');
    const other = path.join(folder, 'packages');
    put(real, isNamed);
    put(other, isNamed);
    const node = createRequire(path.join(folder, 'real', 'app.js'));
    const seen = new Set();
    for (const name of NAMES) {
      const expected = outcome(() => node.resolve(name), real);
      for (const modules of [real, other]) {
        const found = outcome(() => resolve(path.join(modules, 'app.js'), name, modules), modules);
        assert.equal(found, expected, `${JSON.stringify(name)} in ${modules}`);
      }
      seen.add(expected);
    }
    const hard = ['dot/a.cjs', 'conditions/n.js', 'order/d.js', 'parts/src/y/z.js', 'several/a.js',
      '@of/scope/x.js', 'ERR_PACKAGE_PATH_NOT_EXPORTED', 'ERR_INVALID_PACKAGE_TARGET'];
    for (const one of hard) assert(seen.has(one), one);
  });

  test(`so does a package for what it needs, names in the manifests: ${isNamed}`, (t) => {
    const folder = temporary(t), real = path.join(folder, 'node_modules');
    const other = path.join(folder, 'packages');
    put(real, isNamed);
    put(other, isNamed);
    for (const name of ['#dep', '#none', '#unknown', 'own', 'own/self', 'own/i.js', 'plain',
      './dep', './dep.js', './nothing', 'text', 'parts/lib/x', 'parts/f.js', 'lodash']) {
      const expected = name === 'lodash' ? null
        : outcome(() => createRequire(path.join(real, 'own', 'i.js')).resolve(name), real);
      for (const modules of [real, other]) {
        const from = path.join(modules, 'own', 'i.js');
        const found = outcome(() => resolve(from, name, modules), modules);
        if (expected === null) assert.match(found, /^\.\..*\/node_modules\/lodash\/lodash\.js$/);
        else assert.equal(found, expected, `${name} in ${modules}`);
      }
    }
  });
}

test('what lies in a node_modules above the app\'s packages is not preferred to them', (t) => {
  const folder = temporary(t), modules = path.join(folder, 'packages');
  put(path.join(folder, 'node_modules'), true);
  put(modules, true);
  for (const from of ['app.js', 'own/i.js']) {
    const found = resolve(path.join(modules, from), 'text', modules);
    assert.equal(path.relative(modules, found), 'text/a.js');
  }
});

test('an app requires packages with exports, and hears what is not given', async (t) => {
  const modules_dir = path.join(temporary(t), 'packages');
  put(modules_dir, true);
  const modules = ['dot', 'parts/lib/x', '@of/scope/x', 'parts/f.js'];
  const harness = await start(t, `
    api.on_inbound_message = function () {
      api.request('log.info', { msg: [require('dot'), require('parts/lib/x'),
        require('@of/scope/x')].join() });
      try { require('parts/f.js'); } catch (error) { api.request('log.info', { msg: error.code }); }
      api.done();
    };`, { modules, modules_dir });
  harness.deliver('r1');
  assert.equal((await harness.next()).msg, 'dot/a.cjs,parts/src/x.js,@of/scope/x.js');
  assert.equal((await harness.next()).msg, 'ERR_PACKAGE_PATH_NOT_EXPORTED');
});
