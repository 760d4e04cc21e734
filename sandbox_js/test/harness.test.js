'use strict';
// The harness as the supervisor sees it: a process that speaks JSON lines. `node --test test/`

const assert = require('node:assert/strict');
const { once } = require('node:events');
const fs = require('node:fs');
const { test } = require('node:test');
const { handler, start } = require('./start');

test('a reply to another run is refused, also under the id of a command that waits', async (t) => {
  const harness = await start(t, handler(`
    api.request('kv.get', {}, function (r) { api.log_info(r.value); api.done(); });`));
  harness.deliver('r1');
  const first = await harness.next();
  harness.reply(first, { value: 'of r1' });
  const logged = await harness.next();
  assert.equal(logged.msg, 'of r1');
  harness.reply(logged);
  assert.equal((await harness.next()).cmd, 'js.done');
  harness.deliver('r2');
  const second = await harness.next();
  assert.equal(second.run, 'r2');
  harness.reply({ ...second, run: 'r1' }, { value: 'late' });
  harness.reply({ ...second, run: 'r3' }, { value: 'of nobody' });
  harness.reply(second, { value: 'of r2' });
  const told = await harness.next();
  assert.deepEqual([told.run, told.msg], ['r2', 'of r2']);
});

test('a command has its name, id, run and fields; its reply reaches the callback', async (t) => {
  const harness = await start(t, handler(`
    api.request('kv.get', {key: 'a'}, function (r) { api.log_info(r.value); api.done(); });`));
  harness.deliver('r1');
  const get = await harness.next();
  assert.deepEqual(get, { key: 'a', cmd: 'kv.get', cmd_id: '1', reply: false, run: 'r1' });
  harness.reply(get, { value: 'v' });
  const log = await harness.next();
  assert.deepEqual(log, { msg: 'v', cmd: 'log.info', cmd_id: '2', reply: false, run: 'r1' });
  harness.reply(log);
  assert.deepEqual(await harness.next(), { cmd: 'js.done', cmd_id: '3', reply: false, run: 'r1' });
});

test('ids go on from run to run, and replies to an earlier run are ignored', async (t) => {
  const harness = await start(t, handler(`
    api.request('http.get', {}, function () { api.log_info('late'); });
    api.done();`));
  harness.deliver('r1');
  const first = await harness.next();
  assert.equal((await harness.next()).cmd, 'js.done');
  harness.deliver('r2');
  const second = await harness.next();
  assert.deepEqual([first.cmd_id, second.cmd_id], ['1', '3']);
  harness.reply(first);
  assert.equal((await harness.next()).cmd, 'js.done');
});

test('the object handed over is marked, and may be handed over twice', async (t) => {
  const harness = await start(t, handler(`
    var m = {a: 1};
    api.request('x.a', m); api.request('x.b', m);
    api.log_info(m.cmd + m.cmd_id + m.reply); api.done();`));
  harness.deliver('r1');
  const sent = [await harness.next(), await harness.next(), await harness.next()];
  const expected = [['x.a', '1'], ['x.b', '2'], ['log.info', '3']];
  assert.deepEqual(sent.map((c) => [c.cmd, c.cmd_id]), expected);
  assert.equal(sent[2].msg, 'x.b2false');
});

test("a field of the app's called run does not stand in for ours", async (t) => {
  const harness = await start(t, handler("api.request('x.a', {run: 'forged'}); api.done();"));
  harness.deliver('r1');
  assert.equal((await harness.next()).run, 'r1');
});

test('half a surrogate pair becomes U+FFFD; text that only looks like one stays', async (t) => {
  const text = "'cut \\ud83d end \\\\ud83d \\u00e9 \\ud83d\\ude00'";
  const harness = await start(t, handler(`api.log_info(${text}); api.done();`));
  harness.deliver('r1');
  assert.equal((await harness.next()).msg, 'cut \ufffd end \\ud83d é 😀');
});

test('UTF-8 arrives whole, whatever the chunks', async (t) => {
  const harness = await start(t, handler('api.log_info(command.msg.content); api.done();'));
  const msg = { content: 'Zoë ☃ 😀' };
  const line = { reply: false, cmd: 'inbound-message', cmd_id: '1', run: 'r1', msg };
  for (const byte of Buffer.from(JSON.stringify(line) + '\n')) {
    harness.child.stdin.write(Buffer.of(byte));
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal((await harness.next()).msg, 'Zoë ☃ 😀');
});

test('events go to on_inbound_event; an app without one is simply done', async (t) => {
  const with_handler = await start(t, `
    api.on_inbound_event = function (c) { api.log_info(c.msg.event_type); api.done(); };`);
  with_handler.deliver('r1', { event_type: 'ack' }, 'event');
  assert.equal((await with_handler.next()).msg, 'ack');
  const without = await start(t, handler(''));
  without.deliver('r1', { event_type: 'ack' }, 'event');
  assert.equal((await without.next()).cmd, 'js.done');
});

test('on_unknown_command takes what has no handler', async (t) => {
  const harness = await start(t, `
    api.on_unknown_command = function (c) { api.log_info(c.cmd); api.done(); };`);
  harness.deliver('r1');
  assert.equal((await harness.next()).msg, 'inbound-message');
});

test('each run has fresh globals and prototypes, and modules as they were loaded', async (t) => {
  const harness = await start(t, handler(`
    var q = require('q'), lodash = require('lodash');
    var seen = [typeof mark, typeof [].mark, typeof q.mark, typeof lodash.mark];
    mark = 1; Array.prototype.mark = 1; q.mark = 1;
    api.log_info(seen.join()); api.done();`), { modules: ['q', 'lodash'] });
  const seen = [];
  for (const run of ['r1', 'r2']) {
    harness.deliver(run);
    const log = await harness.next();
    seen.push(log.msg);
    harness.reply(log);
    assert.equal((await harness.next()).cmd, 'js.done');
  }
  assert.deepEqual(seen, Array(2).fill('undefined,undefined,undefined,undefined'));
});

test('an error has its kind, its message, and only the stack of the app', async (t) => {
  const body = 'function inner() { throw new TypeError("bad"); } inner();';
  const harness = await start(t, handler(body));
  harness.deliver('r1');
  const { cmd, kind, message, run, stack } = await harness.next();
  assert.deepEqual([cmd, kind, message, run], ['js.error', 'throw', 'TypeError: bad', 'r1']);
  const [first, ...frames] = stack.split('\n');
  assert.equal(first, 'TypeError: bad');
  assert.equal(frames.length, 2);
  assert.match(frames[0], /^ {4}at inner \(app\.js:1:\d+\)$/);
  assert.match(frames[1], /^ {4}at api\.on_inbound_message \(app\.js:1:\d+\)$/);
});

test('an error whose getters throw is still reported', async (t) => {
  const harness = await start(t, handler(`
    throw Object.defineProperty({}, 'stack', {get: function () { throw 1; }});`));
  harness.deliver('r1');
  assert.deepEqual([(await harness.next()).kind], ['throw']);
});

test('an unserialisable object is an error; the commands around it go out', async (t) => {
  const harness = await start(t, handler(`
    var a = {}; a.a = a;
    api.log_info('before'); api.request('kv.set', a); api.log_info('after');`));
  harness.deliver('r1');
  assert.deepEqual([(await harness.next()).msg, (await harness.next()).msg], ['before', 'after']);
  assert.match((await harness.next()).message, /circular structure/);
});

test('timers of a module end with the run', async (t) => {
  const harness = await start(t, handler(`
    require('timers').setInterval(function () { api.log_info('tick'); }, 1);
    api.done();`), { modules: ['timers'] });
  harness.deliver('r1');
  assert.equal((await harness.next()).cmd, 'js.done');
  await new Promise((resolve) => setTimeout(resolve, 50));
  harness.deliver('r2');
  assert.deepEqual([(await harness.next()).cmd], ['js.done']);
});

test('the process ends when the supervisor is gone', async (t) => {
  const harness = await start(t, handler(''));
  harness.child.stdin.end();
  const [code] = await once(harness.child, 'exit');
  assert.equal(code, 0);
});

test('an idle process frees its memory, and no app finds the collector', async (t) => {
  const harness = await start(t, handler(`
    var inLibrary = require('lodash').constructor('return typeof gc')();
    var found = [typeof gc, typeof globalThis.gc, inLibrary];
    var q = []; for (var i = 0; i < 200000; i++) q.push({i: i});
    api.log_info(found.join()); api.done();`), { modules: ['lodash'] });
  const rollup = `/proc/${harness.child.pid}/smaps_rollup`;
  const dirty = () => Number(/Private_Dirty: +(\d+)/.exec(fs.readFileSync(rollup, 'utf8'))[1]);
  harness.deliver('r1');
  const log = await harness.next();
  assert.equal(log.msg, 'undefined,undefined,undefined');
  harness.reply(log);
  await harness.next();
  const before = dirty();
  await new Promise((resolve) => setTimeout(resolve, 5500));
  assert.ok(dirty() < before * 0.75, `${before} kB before, ${dirty()} after`);
  harness.deliver('r2');
  assert.equal((await harness.next()).msg, 'undefined,undefined,undefined');
});

test('a process that has had some runs reports how much is in its heap', async (t) => {
  const harness = await start(t, handler('api.done();'));
  const heaps = [];
  for (let run = 1; run <= 12; run++) {
    harness.deliver(`r${run}`);
    await harness.next();
    heaps.push(harness.heap);
  }
  assert.equal(heaps[0], 0);
  assert(heaps[11] > 1e6 && heaps[11] < 64e6, heaps[11]);   // of the twelfth run
});

test('the clock can begin at another time, in the app and in its libraries', async (t) => {
  const clock = Date.UTC(2015, 5, 1, 12);
  const harness = await start(t, handler(`
    const day = require('moment')().utc().format('YYYY-MM-DD');
    const isNear = Date.now() - ${clock} < 60000;
    const isJune = new Date(2015, 5).getMonth() === 5;
    const isReal = new Date(0) instanceof Date && Date.length === 7 && isJune;
    const year = new Date().getUTCFullYear();
    api.log_info([day, year, isNear, Date().includes('2015'), isReal].join(' ')); api.done();`),
  { clock, modules: ['moment'] });
  harness.deliver('r1');
  assert.equal((await harness.next()).msg, '2015-06-01 2015 true true true');
});

const both = async (harness, count) => {
  const lines = [];
  while (lines.length < count) {
    const line = await harness.next();
    if (line.cmd !== 'js.turn') lines.push(line);
  }
  return lines;
};

test('of several runs, each has its own commands, timers, promises and failures', async (t) => {
  const harness = await start(t, handler(`
    const { setTimeout, setInterval, clearInterval } = require('timers');
    const Q = require('q'), who = command.msg.who;
    function say(value) {
      const msg = who + ' got ' + value + ' ' + (globalThis.seen || 'nothing');
      api.request('log.info', {msg}, function () { api.done(); });
    }
    api.request('kv.get', {key: who}, function (reply) {
      Q(reply.value).then(function (value) {
        if (value === 'slow') {
          let open = false;
          const timer = setInterval(function () {
            if (open) { clearInterval(timer); say(value); }
          }, 5);
          return api.request('kv.get', {key: 'gate'}, function () { open = true; });
        }
        setTimeout(function () {
          if (value === 'bad') Promise.reject(new Error('of ' + who));
          else say(value);
        }, 5);
      });
    });`), { modules: ['q', 'timers'], messages_in_flight: 3 });
  for (const who of ['a', 'b', 'c']) harness.deliver(`r-${who}`, { who });
  const asked = await both(harness, 3);
  const keys = asked.map((line) => [line.run, line.key]);
  assert.deepEqual(keys, [['r-a', 'a'], ['r-b', 'b'], ['r-c', 'c']]);
  assert.equal(new Set(asked.map((line) => line.cmd_id)).size, 3);
  // All replies in one write: one queue of Q's settles their promises, which still belong to their
  // runs.
  const values = ['slow', 'bad', 'quick'];
  const replies = asked.map(({ cmd, cmd_id, run }, n) => (
    JSON.stringify({ reply: true, cmd, cmd_id, run, success: true, value: values[n] }) + '\n'));
  harness.child.stdin.write(replies.join(''));
  const lines = await both(harness, 3);
  const failed = lines.find((line) => line.cmd === 'js.error');
  const quick = lines.find((line) => line.cmd === 'log.info');
  const gate = lines.find((line) => line.key === 'gate');
  assert.equal(failed.run, 'r-b');
  assert.match(failed.message, /of b/);
  assert.equal(quick.msg, 'c got quick nothing');
  assert.equal(quick.run, 'r-c');
  harness.reply(quick);
  assert.equal((await both(harness, 1))[0].run, 'r-c');
  harness.reply(gate);
  const [slow] = await both(harness, 1);   // its timer outlived the ends of the other runs
  assert.equal(slow.msg, 'a got slow nothing');
  harness.reply(slow);
  const cmd_id = String(Number(slow.cmd_id) + 1);
  assert.deepEqual(await harness.next(), { cmd: 'js.done', cmd_id, reply: false, run: 'r-a' });
});

test('what a library prints while a run is active belongs to that run', async (t) => {
  const harness = await start(t, handler(`
    require('q')().then(function () { console.log('of ' + command.msg.who); api.done(); });`),
  { modules: ['q'], messages_in_flight: 2 });
  harness.deliver('r1', { who: 'one' });
  harness.deliver('r2', { who: 'two' });
  const lines = await both(harness, 4);
  const printed = lines.filter((line) => line.cmd === 'js.console');
  const found = printed.map((line) => [line.run, line.msg]).sort();
  assert.deepEqual(found, [['r1', 'of one'], ['r2', 'of two']]);
});

test('a command that is none is an error of the app, which says why', async (t) => {
  const object = 'the second argument must be an object';
  for (const [code, expected] of [
    ['api.request("kv.get", ["x"])', `api.request(kv.get): ${object}, got an array`],
    ['api.request("kv.get", function () {})', `api.request(kv.get): ${object}, got function () {}`],
    ['api.request("kv.get", "x")', `api.request(kv.get): ${object}, got x`],
    ['api.request("kv.get", { toJSON: function () { return 5; } })',
      `api.request(kv.get): ${object} in JSON, too; there it is 5`],
    ['Object.prototype.toJSON = function () {}; api.request("kv.get", {})',
      `api.request(kv.get): ${object} in JSON, too; there it is undefined`],
    ['api.request("js.done", { heap: 1 })', 'api.request(js.done): there is no such command'],
    ['api.request({ toString: function () { return "js.ready"; } }, {})',
      'api.request(js.ready): there is no such command'],
  ]) {
    const harness = await start(t, handler(code));
    harness.deliver('r1');
    const { cmd, message } = await harness.next();
    assert.equal(cmd, 'js.error', code);
    assert.equal(message, `TypeError: ${expected}`);
  }
});

test('the name of a command becomes text', async (t) => {
  const harness = await start(t, handler(`[null, Symbol('x'), {}, new String('kv.get')].forEach(
    function (name) { api.request(name, {}); }); api.done();`));
  harness.deliver('r1');
  for (const cmd of ['null', 'Symbol(x)', '[object Object]', 'kv.get']) {
    assert.equal((await harness.next()).cmd, cmd);
  }
});

test('what cannot be shown does not fail the run that logs it', async (t) => {
  const harness = await start(t, handler(`
    var trap = function () { throw new Error('trap'); };
    console.log(new Proxy({}, { get: trap, ownKeys: trap, getOwnPropertyDescriptor: trap }), 10n);
    console.log({ toJSON: trap });
    api.done();`));
  harness.deliver('r1');
  assert.equal((await harness.next()).msg, '[object Object] 10');
  assert.equal((await harness.next()).msg, '[object Object]');
  assert.equal((await harness.next()).cmd, 'js.done');
});
