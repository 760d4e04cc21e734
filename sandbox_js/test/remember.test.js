'use strict';
// Templates and rules for plurals that are remembered do what those made anew do.

const assert = require('node:assert/strict');
const { createRequire } = require('node:module');
const path = require('node:path');
const { test } = require('node:test');
const { createLibrary } = require('../lib/library');

const BUNDLED = createRequire(path.join(__dirname, '..', 'app.js'));
const OURS = ['vumigo_v02', 'jed', 'lodash'];

function open() {
  const library = createLibrary({ modulesDir: '', console() {} });
  library.preload(OURS);
  library.watchAll(OURS, []);
  return library;
}

function tried(call) {
  try { return call(); } catch (error) { return `${error.name}: ${error.message}`; }
}

/** What vumigo_v02 makes of a text, with a context; without one it is given none. */
function translate({ translate: toolkit }, text, context) {
  const { LazyTranslator, apply_translation, Translator } = toolkit;
  const lazy = new LazyTranslator()(text);
  return apply_translation(new Translator().jed, context ? lazy.context(context) : lazy);
}

const person = { name: 'Thandi', town: { name: 'Abel', zip: 0 }, none: null, $_1: '{{name}}' };
const TEXTS = [
  'plain', 'a { b } c', '{', '{{', '}}', '{ {name} }', '{{name}}', '{{ name }}', '{{  name}}!',
  '{{town.name}} {{ town.zip }}', '{{none}}', '{{ $_1 }}', '{{missing}}', '{{missing.name}}',
  '{{ town . name }}', '{{name}}{{name}}', "it's \\ \"{{name}}\"\n{{name}}\u2028", '{{name', '{{}}',
  '{{ }}', '{{{name}}}', '{{-name}}', '{{- "<" + name}}', '{% name %}', '{%name = 1%}{{name}}',
  '{{name.toUpperCase()}}', '{{ 1 + 1 }}', '{{ function }}', '{{ 1a }}', '<%= name %>', '${name}',
  '{{ this.x }}', '{{ _.escape("<") }}', 'x'.repeat(2000) + '{{name}}',
  '{{name}} 😀 {{town.name}}',
];

test('templates: the same text and the same error as from lodash, however often', () => {
  const vumigo = open().load('vumigo_v02');
  const fromFile = createRequire(BUNDLED.resolve('vumigo_v02'));
  const plain = fromFile('lodash').runInContext();
  Object.assign(plain.templateSettings, {
    escape: /{{-([\s\S]+?)}}/g, evaluate: /{%([\s\S]+?)%}/g, interpolate: /{{([\s\S]+?)}}/g,
  });
  for (const context of [person, { name: '<b>', town: {} }, {}]) {
    for (const text of [...TEXTS, ...TEXTS]) {
      const expected = tried(() => plain.template(text)({ ...context }));
      assert.equal(tried(() => translate(vumigo, text, { ...context })), expected, text);
    }
  }
});

/** The number that lodash gave the function that it compiled for a text. */
function numberOf(vumigo, text) {
  let stack = '';
  const toString = () => { ({ stack } = new Error()); return ''; };
  translate(vumigo, text, { spy: { toString } });
  return /lodash\.templateSources\[\d+\]/.exec(stack)[0];
}

test('templates: one of nothing but names is compiled once, every other each time', () => {
  const vumigo = open().load('vumigo_v02');
  for (const text of ['{{spy}}', 'a {{ spy }} b']) {
    assert.equal(numberOf(vumigo, text), numberOf(vumigo, text), text);
  }
  const long = 'x'.repeat(1001) + '{{spy}}';
  for (const text of ['{{spy}}{% var x = 1 %}', '{{ (spy) }}', '{{-spy}}', long]) {
    assert.notEqual(numberOf(vumigo, text), numberOf(vumigo, text), text);
  }
});

test('templates: settings that are changed meanwhile count', () => {
  const vumigo = open().load('vumigo_v02');
  const change = (code) => translate(vumigo, `{% ${code} %}`);
  assert.equal(translate(vumigo, '{{name}} [name]', person), 'Thandi [name]');
  change('_.templateSettings.then = _.templateSettings.interpolate');
  change('_.templateSettings.interpolate = /\\[([a-z]+)\\]/g');
  assert.equal(translate(vumigo, '{{name}} [name]', person), '{{name}} Thandi');
  change('_.templateSettings.interpolate = _.templateSettings.then');
  change('delete _.templateSettings.then');
  assert.equal(translate(vumigo, '{{name}} [name]', person), 'Thandi [name]');
  change('_.templateSettings.imports.name = "planted"');
  assert.equal(translate(vumigo, '{{name}}', {}), 'planted');
  change('delete _.templateSettings.imports.name');
  assert.throws(() => translate(vumigo, '{{name}}', {}), { name: 'ReferenceError' });
});

test('templates: nothing stays in one that is used again', () => {
  const vumigo = open().load('vumigo_v02');
  const plant = new Function(`
    const template = arguments.callee.caller;
    template.mark = template.prototype.mark = 'planted';
    return '';`);
  const text = '{{spy}}{{arguments.callee.mark}}{{arguments.callee.prototype.mark}}';
  for (let n = 0; n < 2; n++) {
    assert.equal(translate(vumigo, text, { spy: { toString: plant } }), '');
  }
  translate(vumigo, '{% _ = null %}');
  assert.equal(translate(vumigo, '{% print(typeof _) %}'), 'function');
});

test('templates: many texts are not kept', () => {
  const vumigo = open().load('vumigo_v02');
  const first = numberOf(vumigo, '{{spy}}');
  for (let n = 0; n < 200; n++) translate(vumigo, `text ${n}`);
  assert.notEqual(numberOf(vumigo, '{{spy}}'), first);
});

const RULES = [
  'nplurals=2; plural=(n != 1);', 'nplurals=1; plural=0', 'nplurals=2; plural=n>1;',
  'nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 && (n%100<10 || n%100>=20)'
  + ' ? 1 : 2);',
  'nplurals=2; plural=(n +', 'plural=n;', 'nplurals=2;', '', 'nplurals=2; plural=alert(1);',
];

test('plurals: the same form and the same error as from Jed, however often', () => {
  const ours = open().load('jed'), plain = BUNDLED('jed');
  for (const rule of [...RULES, ...RULES]) {
    for (const n of [0, 1, 2, 5, 11, 21, 22, 101, 112]) {
      const expected = tried(() => plain.PF.compile(rule)(n));
      assert.equal(tried(() => ours.PF.compile(rule)(n)), expected, `${rule} for ${n}`);
    }
  }
  assert.equal(ours.PF.parse(RULES[0]), ours.PF.parse(RULES[0]));
});

test('plurals: what is remembered cannot be changed, and Jed can be', () => {
  const { PF: rules } = open().load('jed'), [rule] = RULES;
  const frozen = (tree) => Object.isFrozen(tree) && Object.values(tree)
    .every((value) => typeof value !== 'object' || frozen(value));
  assert(frozen(rules.parse(rule)));
  const tree = rules.parse(rule);
  rules.extractPluralExpr = () => '0';
  assert.notEqual(rules.parse(rule), tree);
  assert.equal(rules.compile(rule)(5), 0);
});

test('plurals: what a run changes in Jed is put back, and the rule is remembered again', () => {
  const library = open(), { PF: rules } = library.load('jed'), [rule] = RULES;
  const { parse } = rules, tree = parse(rule);
  rules.parse = () => 'planted';
  rules.extractPluralExpr = () => '0';
  assert.equal(library.settle(true), '');
  assert.equal(rules.parse, parse);
  assert.equal(rules.parse(rule), tree);
});
