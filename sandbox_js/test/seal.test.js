'use strict';
// Modules of Node are sealed before the first run. One that a run loads is not: the seal would
// count as the run's own work, which cannot be undone.

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { createLibrary } = require('../lib/library');
const { handler, start } = require('./start');

const NAMES = ['buffer', 'util', 'url', 'events', 'crypto', 'assert', 'querystring',
  'string_decoder', 'path', 'timers'];

test('whichever module of Node is loaded late, the process goes on', () => {
  for (const first of NAMES) {
    const library = createLibrary({ modulesDir: '', console() {} });
    library.preload([first]);
    library.watchAll([first], ['Buffer']);
    for (const late of NAMES) {
      library.load(late);
      assert.equal(library.settle(true), '', `${first}, then ${late}`);
    }
  }
});

test('a module of Node that comes with the app is sealed, also in a spare process', () => {
  const library = createLibrary({ modulesDir: '', console() {} });
  library.preload(['lodash']);
  library.watchAll([], []);
  library.preload(['url']);
  library.watchAll(['url'], []);
  assert(Object.isFrozen(library.load('url').URL));
  assert.equal(library.settle(true), '');
});

test('one that is required with node:, or late, does not retire the process', async (t) => {
  for (const name of ["'node:url'", "'u' + 'rl'"]) {
    const harness = await start(t, handler(`
      api.log_info(require(${name}).parse('http://a/b').host, api.done);`), { modules: ['url'] });
    for (let run = 1; run <= 3; run++) {
      harness.deliver(`r${run}`);
      const log = await harness.next();
      assert.equal(log.msg, 'a');
      harness.reply(log);
      assert.deepEqual(Object.keys(await harness.next()), ['cmd', 'cmd_id', 'reply', 'run']);
    }
  }
});
