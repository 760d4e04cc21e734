'use strict';
// Stacks as they are shown: mapped to the sources, libraries folded, states named.

const assert = require('node:assert/strict');
const { SourceMap } = require('node:module');
const { test } = require('node:test');
const { createStacks } = require('../lib/stacks');
const { handler, start } = require('./start');

const DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';

function encode(value) {
  let text = '', rest = value < 0 ? (-value << 1) | 1 : value << 1;
  do {
    const digit = rest & 31;
    rest >>= 5;
    text += DIGITS[rest > 0 ? digit | 32 : digit];
  } while (rest > 0);
  return text;
}

/** The mappings of lines of segments [column, source, line, column], all from 0. */
function mappings(lines) {
  let before = [0, 0, 0, 0];
  return lines.map((segments) => {
    before[0] = 0;
    return segments.map((segment) => {
      const text = segment.map((value, i) => encode(value - before[i])).join('');
      before = segment.map((value) => value).concat(before.slice(segment.length));
      return text;
    }).join(',');
  }).join(';');
}

const MAP = {
  version: 3, sources: ['../src/app.ts', 'webpack://name/./src/b.js'], names: [],
  mappings: mappings([[], [[0, 0, 4, 2], [10, 1, 0, 0], [20, 0, 99, 7]], [[0, 1, 3, 0]]]),
};

function inline(map, head = 'data:application/json;base64,') {
  return `\n//# sourceMappingURL=${head}${Buffer.from(JSON.stringify(map)).toString('base64')}\n`;
}

test('a frame of the app is shown at its place in the source', () => {
  const { show } = createStacks({ filename: 'app.js', map: JSON.stringify(MAP) });
  assert.equal(show('Error: at app.js:2:1\n    at f (app.js:2:1)\n    at app.js:2:15\n'
    + '    at async g (app.js:2:40)\n    at my-app.js:2:1\n'
    + '    at eval (eval at f (app.js:3:5), x:1:2)'),
  'Error: at app.js:2:1\n    at f (src/app.ts:5:3)\n    at src/b.js:1:1\n'
    + '    at async g (src/app.ts:100:8)\n    at my-app.js:2:1\n'
    + '    at eval (eval at f (src/b.js:4:5), x:1:2)');
  assert.equal(show('app.js:3\n  code\n'), 'src/b.js:4\n  code\n');
  assert.equal(show('Error\n    at f (app.js:1:1)'), 'Error\n    at f (app.js:1:1)');
  assert.equal(show('Error\n    at f (app.js:99:1)'), 'Error\n    at f (app.js:99:1)');
});

test('a map in the text itself, encoded either way, is the one that counts', () => {
  const stack = 'Error\n    at f (app.js:2:1)', mapped = 'Error\n    at f (src/app.ts:5:3)';
  const charset = 'data:application/json;charset=utf-8;base64,';
  for (const source of [inline(MAP), inline(MAP, charset),
    `\n//# sourceMappingURL=data:application/json,${encodeURIComponent(JSON.stringify(MAP))}`]) {
    const map = JSON.stringify({ ...MAP, sources: ['other', 'other'] });
    assert.equal(createStacks({ filename: 'app.js', source, map }).show(stack), mapped);
  }
});

test('what is no source map leaves a stack as it is', () => {
  const stack = 'Error\n    at f (app.js:2:1)';
  for (const map of ['', '{', 'null', '5', '{}', '{"mappings": 5}', '{"sections": [1]}',
    '{"mappings": ";AAAA", "sources": []}', '{"mappings": ";\\u1234A", "sources": ["a"]}',
    '{"mappings": ";A", "sources": ["a"]}']) {
    const shown = createStacks({ filename: 'app.js', map }).show(stack);
    assert.ok(shown === stack || shown.includes('(a:'), map);
  }
  const source = '\n//# sourceMappingURL=data:application/json;base64,%%%';
  assert.equal(createStacks({ filename: 'app.js', source }).show(stack), stack);
});

test('a map of sections, and names of sources of each kind', () => {
  const part = (name) => ({
    version: 3, sources: [name], names: [], mappings: mappings([[[0, 0, 0, 0]]]),
  });
  const map = { version: 3, sections: [
    { offset: { line: 0, column: 0 }, map: part('a.js') },
    { offset: { line: 1, column: 5 }, map: { ...part('./b.js'), sourceRoot: 'lib/' } },
    { offset: { line: 2, column: 0 }, map: part('file:///x/c%20d.js') },
  ] };
  const { place } = createStacks({ filename: 'app.js', map: JSON.stringify(map) });
  assert.deepEqual(place(1, 1), { file: 'a.js', line: 1, column: 1 });
  assert.deepEqual(place(2, 8), { file: 'lib/b.js', line: 1, column: 3 });
  assert.deepEqual(place(3, 1), { file: '/x/c d.js', line: 1, column: 1 });
});

test('places are those that Node finds', () => {
  let seed = 7;
  const random = (most) => { seed = (seed * 48271) % 0x7fffffff; return seed % most; };
  for (let round = 0; round < 5; round++) {
    const lines = Array.from({ length: 300 }, () => {
      const columns = [...new Set(Array.from({ length: random(6) }, () => random(5000)))];
      const at = () => [random(4), random(100000), random(900)];
      // Two, so that no line counts as copied.
      return columns.length < 2 ? [] : columns.sort((a, b) => a - b).map((c) => [c, ...at()]);
    });
    const map = { version: 3, sources: ['a', 'b', 'c', 'd'], names: [], mappings: mappings(lines) };
    const reference = new SourceMap(map);
    const { place } = createStacks({ filename: 'app.js', map: JSON.stringify(map) });
    const inAnyOrder = lines.map((segments, line) => [segments, line]).sort(() => random(3) - 1);
    inAnyOrder.forEach(([segments, line]) => {
      if (segments.length === 0) { assert.equal(place(line + 1, 1), null); return; }
      for (const column of [segments[0][0], segments.at(-1)[0], 5000, segments[1][0] - 1]) {
        const wanted = reference.findEntry(line, column);
        assert.deepEqual(place(line + 1, column + 1), {
          file: wanted.originalSource,
          line: wanted.originalLine + 1, column: wanted.originalColumn + 1,
        });
      }
    });
  }
});

test('frames of libraries are folded, but the one that threw', () => {
  const { show } = createStacks({ filename: 'app.js', modulesDir: '/own', hidden: ['(node:'] });
  const q = '    at p (/x/node_modules/q/q.js:1:2)', v = '    at v (/own/@a/v/lib/v.js:3:4)';
  const app = '    at f (app.js:1:1)';
  assert.equal(show(['E', app, q, '    at n (node:vm:1:1)', v, q, app, v].join('\n')),
    ['E', app, '    ... 3 frames of q, @a/v', app, '    ... 1 frame of @a/v'].join('\n'));
  assert.equal(show(['E', v, q, app].join('\n')),
    ['E', '    at v (node_modules/@a/v/lib/v.js:3:4)', '    ... 1 frame of q', app].join('\n'));
});

test('errors and what the app prints of them have the places of the source', async (t) => {
  const map = JSON.stringify({
    version: 3, sources: ['../src/app.ts'], names: [], mappings: ';AAIA',
  });
  const body = "\nconsole.error(new Error('a')); require('q').reject(new Error('b')).done();";
  const harness = await start(t, handler(body), { modules: ['q'], source_map: map });
  harness.deliver('r1');
  const printed = await harness.next(), failed = await harness.next();
  assert.match(printed.msg, /^Error: a\n    at api\.on_inbound_message \(src\/app\.ts:5:15\)$/);
  assert.match(failed.stack, /^Error: b\n    at api\.on_inbound_message \(src\/app\.ts:5:/);
  assert.doesNotMatch(failed.stack, /app\.js/);
});

const APP = (states, more = '') => `
  var v = require('vumigo_v02');
  v.interact(api, v.App.extend(function (self) {
    v.App.call(self, 'states:start');
    ${more}
    ${states}
  }));`;
const ADD = "self.states.add('states:start', function (name) { ";

for (const [what, code, where] of [
  ['in the creator of a state', APP(`${ADD} nope(); });`),
    'in state states:start, message "hello": ReferenceError: nope is not defined'],
  ['in the creator of a state that another one stands for',
    APP(`${ADD} return self.states.create('states:b'); });
      self.states.add('states:b', function () { nope(); });`),
    'in state states:b, message "hello": ReferenceError: nope is not defined'],
  ['in the name of a state',
    APP(`${ADD} return new v.states.FreeText(name, {question: 'a', next: 'none'}); });`,
      "self.init = function () { return self.states.create('none'); };"),
    'outside any state, message "hello": AppStateError: Unknown state \'none\''],
  ['before there is a state', APP(ADD + '});', 'self.init = function () { nope(); };'),
    'outside any state, message "hello": ReferenceError: nope is not defined'],
]) {
  test(`an error ${what} says where`, async (t) => {
    const harness = await start(t, code, { modules: ['vumigo_v02'] });
    harness.send({
      reply: false, cmd: 'config', cmd_id: '0', run: null, burst: 0,
      values: { config: '{"name": "a"}' },
    });
    harness.deliver('r1', { content: 'hello', from_addr: '1', session_event: 'resume' });
    let told = null;
    while (told === null) {
      const line = await harness.next();
      if (line.cmd === 'js.console' && line.level === 'error') told = line.msg;
      const value = line.cmd === 'config.get' ? '{"name": "a"}' : null;
      if (line.cmd.includes('.') && !line.cmd.startsWith('js.')) harness.reply(line, { value });
    }
    assert.ok(told.startsWith(where), told);
    if (told.includes('nope')) assert.match(told, /\n    \.\.\. \d+ frames of vumigo_v02/);
  });
}
