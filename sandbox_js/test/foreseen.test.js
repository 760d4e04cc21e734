'use strict';
// What the supervisor has read before the app asks: given if it is what the app waits for first.

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { handler, start } = require('./start');

const SAYS = 'function (r) { api.log_info(JSON.stringify(r)); api.done(); }';

async function deliver(t, body, { key = 'user.1', value = { n: [1] }, burst = 50 } = {}) {
  const harness = await start(t, handler(body));
  harness.send({ reply: false, cmd: 'config', cmd_id: '0', run: null, values: {}, burst });
  harness.send({ foreseen: true, key, value });
  harness.deliver('r1');
  return harness;
}

test('the app has its reply at once, and the command is reported', async (t) => {
  const harness = await deliver(t, `api.request('kv.get', {key: 'user.1'}, ${SAYS})`);
  const get = await harness.next(), log = await harness.next();
  assert.deepEqual([get.cmd, get.key, get.reply, get.run], ['kv.get', 'user.1', null, 'r1']);
  const seen = JSON.parse(log.msg);
  const { cmd, cmd_id, reply, success, value } = seen;
  assert.deepEqual([cmd, cmd_id, reply, success, value],
    ['kv.get', get.cmd_id, true, true, { n: [1] }]);
  assert.equal(Object.keys(seen).length, 5);
  assert.equal((await harness.next()).cmd, 'js.done');
});

test('its time begins with the run, not when the realm was made', async (t) => {
  const harness = await start(t, handler(`api.request('kv.get', {key: 'k'}, ${SAYS})`));
  harness.send({ reply: false, cmd: 'config', cmd_id: '0', run: null, values: {}, burst: 50 });
  await new Promise((resolve) => { setTimeout(resolve, 150); });
  harness.send({ foreseen: true, key: 'k', value: 1 });
  harness.deliver('r1');
  assert.equal((await harness.next()).reply, null);
});

test('a value of null is one, too', async (t) => {
  const harness = await deliver(t, `api.request('kv.get', {key: 'user.1'}, ${SAYS})`,
    { value: null });
  assert.equal((await harness.next()).reply, null);
  assert.equal(JSON.parse((await harness.next()).msg).value, null);
});

// The app ends its run when it has the value: a test in which it has it too early sees that.
const READS = "api.request('kv.get', {key: 'user.1'}, function () { api.done(); });";
const ASKED = {
  'another key': "api.request('kv.get', {key: 'user.2'}, function () { api.done(); })",
  'after a write in the same breath': `api.request('kv.set', {key: 'user.1', value: 1}); ${READS}`,
  'after something else that is waited for':
    `api.request('kv.incr', {key: 'n'}, function () { ${READS} })`,
  'later than a tenth of a second':
    `var until = Date.now() + 150; while (Date.now() < until); ${READS}`,
  'a second time': `api.request('kv.get', {key: 'user.1'}, function () { ${READS} })`,
};
for (const [when, body] of Object.entries(ASKED)) {
  test(`the supervisor is asked: ${when}`, async (t) => {
    const harness = await deliver(t, body);
    let line = await harness.next();
    if (line.cmd !== 'kv.get') { harness.reply(line); line = await harness.next(); }
    if (when === 'a second time') line = await harness.next();
    assert.deepEqual([line.cmd, line.reply], ['kv.get', false]);
  });
}

test('beyond the burst the supervisor is asked', async (t) => {
  const harness = await deliver(t, READS, { burst: 0 });
  assert.equal((await harness.next()).reply, false);
});

test('it is for one run', async (t) => {
  const harness = await start(t, handler(
    `if (command.msg.message_id === 'second') { ${READS} } else api.done();`));
  harness.send({ reply: false, cmd: 'config', cmd_id: '0', run: null, values: {}, burst: 50 });
  harness.send({ foreseen: true, key: 'user.1', value: 1 });
  harness.deliver('r1');
  assert.equal((await harness.next()).cmd, 'js.done');
  harness.deliver('r2', { message_id: 'second' });
  assert.equal((await harness.next()).reply, false);
});
