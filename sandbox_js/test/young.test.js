'use strict';
// Functions that the toolkits make in a run are young objects, and nothing else is changed.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test } = require('node:test');
const { setFlagsFromString } = require('node:v8');
const vm = require('node:vm');
const { createLibrary } = require('../lib/library');
const { withYoungFunctions } = require('../lib/young');

const FOLDER = path.join(__dirname, '..', 'node_modules');
const ours = (source) => withYoungFunctions(path.join(FOLDER, 'some', 'file.js'), source);

setFlagsFromString('--allow-natives-syntax');
const isYoung = new vm.Script('(object) => %InYoungGeneration(object)').runInThisContext();

test('assignments to properties, and nothing else', () => {
  const changed = {
    'a.b = function () {}': 'a.b = 0 || function () {}',
    'a.b=function(){}': 'a.b=0 || function(){}',
    'a[b] = function c() {}': 'a[b] = 0 || function c() {}',
    'x = a.b = a.c =\n  function () {}': 'x = a.b = a.c =\n  0 || function () {}',
    'a.b = function () {}.bind(a)': 'a.b = 0 || function () {}.bind(a)',
    'a.b = function () {} ? 1 : 2': 'a.b = 0 || function () {} ? 1 : 2',
  };
  for (const [source, expected] of Object.entries(changed)) assert.equal(ours(source), expected);
  for (const source of [
    'var a = function () {}', 'a.b == function () {}', 'a.b === function () {}', 'a.b = functions',
    '({ a: function () {} })', 'a.b += function () {}', 'a.b(function () {})', 'a.b = b',
  ]) assert.equal(ours(source), source);
});

test('files of apps and their packages stay as they are', () => {
  const source = 'a.b = function () {}';
  assert.equal(withYoungFunctions('/srv/app/node_modules/q/q.js', source), source);
});

test('the value is the same', () => {
  for (const source of [
    'a.b = function () { return 1; }', 'a.b = function c() { return c.name; }',
    'a["b"] = function () { return this.x; }.bind({ x: 3 })', 'a.b = function () {} ? 1 : 2',
    'a.b = function () {} && 4', 'a.b = function () { return arguments.length; }, a.c = 1',
  ]) {
    const seen = [source, ours(source)].map((text) => {
      const a = vm.runInNewContext(`a = {}; ${text}; a`);
      const { b } = a;
      return typeof b === 'function' ? [b.name, b.length, b(1, 2), String(b), a.c] : [b, a.c];
    });
    assert.deepEqual(seen[0], seen[1]);
  }
});

test('every bundled file still compiles', () => {
  const files = fs.readdirSync(FOLDER, { recursive: true })
    .filter((file) => /^(q|jed|moment|lodash|vumigo_v0[12])\/(.*\/lib\/)?[^/]*\.js$/.test(file));
  assert(files.length > 5);
  for (const file of files) {
    const source = fs.readFileSync(path.join(FOLDER, file), 'utf8').replace(/^#!.*/, '');
    new vm.Script(`(function () {${withYoungFunctions(path.join(FOLDER, file), source)}\n})`);
  }
});

test("a promise's functions, and those of an object of vumigo_v02, are young", () => {
  const library = createLibrary({ modulesDir: '', console() {} });
  library.preload(['vumigo_v02', 'q']);
  const { defer } = library.load('q'), { FreeText } = library.load('vumigo_v02').states;
  assert(isYoung(defer().resolve));
  assert(isYoung(defer().promise.promiseDispatch));
  assert(isYoung(new FreeText('name', { question: 'q', next: 'n' }).translate));
});
